"""Start the node for one camera or several.

ros2 launch x2sam_ros x2sam.launch.py image_topics:=/camera/color/image_raw
ros2 launch x2sam_ros x2sam.launch.py image_topics:="[/front/image_raw, /rear/image_raw]"
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the node; a parameter that no argument sets comes from the parameter file."""
    default_params = PathJoinSubstitution([FindPackageShare("x2sam_ros"), "config", "x2sam.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
            DeclareLaunchArgument("params_file", default_value=default_params, description="parameters of the node"),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", choices=["true", "false"], description="take time from /clock"
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="least severe message that is logged",
            ),
            DeclareLaunchArgument(
                "image_topics",
                default_value="",
                description="topic of the camera, or a list of several; empty takes it from params_file",
            ),
            OpaqueFunction(function=_start_node),
        ]
    )


def _start_node(context: LaunchContext) -> list[Node]:
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    parameters = [LaunchConfiguration("params_file"), {"use_sim_time": use_sim_time}]
    image_topics = LaunchConfiguration("image_topics").perform(context)
    if image_topics:
        parameters.append({"image_topics": image_topics})  # launch reads a list in it as YAML
    return [
        Node(
            package="x2sam_ros",
            executable="x2sam_node",
            namespace=LaunchConfiguration("namespace"),
            parameters=parameters,
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]
