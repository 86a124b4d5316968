"""The common code of segmentation and detection: mmengine's Runner, configs and ViTDet."""
