"""Object detection with mmdetection."""
