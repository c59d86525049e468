"""The ROS 2 node: callbacks hand over, one worker thread infers. The only room that imports rclpy."""
