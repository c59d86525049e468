"""Start one node, with one model, for several cameras.

    ros2 launch x2sam_ros multi_camera.launch.py namespace:=robot1

Arguments:
    params_file: parameters of the node; they name the topics of the cameras.

All arguments of x2sam.launch.py hold too.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("x2sam_ros")


def generate_launch_description() -> LaunchDescription:
    """Include x2sam.launch.py with another parameter file; what is declared here first is its default there."""
    params = PathJoinSubstitution([SHARE, "config", "multi_camera.yaml"])
    base = PathJoinSubstitution([SHARE, "launch", "x2sam.launch.py"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", default_value=params, description="parameters of the node"),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(base)),
        ]
    )
