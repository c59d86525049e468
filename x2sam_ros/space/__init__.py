"""Targets in space: calibrated cameras, and masks lifted by depth. NumPy and OpenCV only, no ROS."""
