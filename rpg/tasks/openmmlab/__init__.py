"""What segmentation and detection share: mmengine's Runner, configs and ViTDet."""
