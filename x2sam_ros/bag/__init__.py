"""Camera streams in, results out, without ROS: rosbag2 folders, MCAP and SQLite files, videos, images."""
