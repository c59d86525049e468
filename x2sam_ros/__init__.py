"""X2SAM segmentation as a streaming ROS 2 perception node. Importing this imports neither torch nor rclpy."""

from pkgutil import extend_path

__version__ = "0.1.0"

# The messages are generated into the colcon overlay; this adds them to a package imported from the source tree.
__path__ = extend_path(__path__, __name__)
