"""Start the node for one camera or several; rgbd, multi_camera and replay build on it.

    ros2 launch x2sam_ros x2sam.launch.py image_topics:=/camera/color/image_raw
    ros2 launch x2sam_ros x2sam.launch.py image_topics:="[/front/image_raw, /rear/image_raw]" namespace:=robot1

Arguments:
    namespace: of the node and of every topic that does not begin with a slash.
    params_file: parameters of the node.
    use_sim_time: take time from /clock.
    autostart: load the model and subscribe at once; false leaves both to a lifecycle manager.
    log_level: least severe message that is logged.
    respawn: start the node again, 2 s after it died.
    image_topics: topic of the camera, or a list of several; empty takes it from params_file.
    depth_topics: depth registered to each camera, in the same order; empty takes it from params_file.
    rviz: show camera, overlay, masks and targets.
    fixed_frame: frame that RViz shows the targets in.
    enclave: SROS2 enclave of the node, which counts where ROS_SECURITY_ENABLE is true.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

CONFIG = [FindPackageShare("x2sam_ros"), "config"]
BOOL = ["true", "false"]
LEVELS = ["debug", "info", "warn", "error", "fatal"]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, the node and RViz."""
    default_params = PathJoinSubstitution([*CONFIG, "x2sam.yaml"])
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
            DeclareLaunchArgument("params_file", default_value=default_params, description="parameters of the node"),
            DeclareLaunchArgument("use_sim_time", default_value="false", choices=BOOL, description="follow /clock"),
            DeclareLaunchArgument("autostart", default_value="true", choices=BOOL, description="activate at once"),
            DeclareLaunchArgument("log_level", default_value="info", choices=LEVELS, description="least severity"),
            DeclareLaunchArgument("respawn", default_value="false", choices=BOOL, description="restart when it died"),
            DeclareLaunchArgument("image_topics", default_value="", description="camera, or list; empty: params_file"),
            DeclareLaunchArgument("depth_topics", default_value="", description="depth, or list; empty: params_file"),
            DeclareLaunchArgument("rviz", default_value="false", choices=BOOL, description="start RViz"),
            DeclareLaunchArgument(
                "fixed_frame", default_value="camera_color_optical_frame", description="fixed frame of RViz"
            ),
            DeclareLaunchArgument("enclave", default_value="/", description="SROS2 enclave of the node"),
            OpaqueFunction(function=_start_node),
            Node(
                condition=IfCondition(LaunchConfiguration("rviz")),
                package="rviz2",
                executable="rviz2",
                namespace=LaunchConfiguration("namespace"),
                arguments=[
                    *("--display-config", PathJoinSubstitution([*CONFIG, "x2sam.rviz"])),
                    *("--fixed-frame", LaunchConfiguration("fixed_frame")),
                ],
                parameters=[{"use_sim_time": use_sim_time}],
            ),
        ]
    )


def _start_node(context: LaunchContext) -> list[LifecycleNode]:
    """Make the node; a list of topics that is empty is left to the parameter file."""
    topics = {
        "image_topics": LaunchConfiguration("image_topics"),
        "depth_topics": LaunchConfiguration("depth_topics"),
    }
    switches = {
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
        "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
    }
    # launch reads a substitution as YAML, so that [a, b] becomes a list; a plain text would stay one
    chosen = {name: topic for name, topic in topics.items() if topic.perform(context)}
    return [
        LifecycleNode(
            package="x2sam_ros",
            executable="x2sam_node",
            name="x2sam_node",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), switches | chosen],
            ros_arguments=[
                *("--log-level", LaunchConfiguration("log_level")),
                *("--enclave", LaunchConfiguration("enclave")),
            ],
            respawn=LaunchConfiguration("respawn"),
            respawn_delay=2.0,
            output="screen",
        )
    ]
