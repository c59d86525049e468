"""Play a bag to the node, from the moment that it is active, on the bag's clock.

    ros2 launch x2sam_ros replay.launch.py bag:=/data/drive1 image_topics:=/camera/image_raw loop:=true

Arguments:
    bag: folder or file that ros2 bag plays.
    rate: speed; 1.0 is that of the recording.
    loop: begin again at the end.
    use_sim_time: take time from /clock, which the player publishes; true here.

All arguments of x2sam.launch.py hold too.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, RegisterEventHandler
from launch.conditions import IfCondition, UnlessCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.event_handlers import OnStateTransition
from launch_ros.substitutions import FindPackageShare

BOOL = ["true", "false"]


def generate_launch_description() -> LaunchDescription:
    """Include x2sam.launch.py and wait for its node; a bag that plays while the model loads would be lost."""
    base = PathJoinSubstitution([FindPackageShare("x2sam_ros"), "launch", "x2sam.launch.py"])
    play = ["ros2", "bag", "play", LaunchConfiguration("bag"), "--clock", "100", "--disable-keyboard-controls"]
    play += ["--rate", LaunchConfiguration("rate")]
    loop = LaunchConfiguration("loop")
    players = [
        ExecuteProcess(cmd=play, condition=UnlessCondition(loop), output="screen"),
        ExecuteProcess(cmd=[*play, "--loop"], condition=IfCondition(loop), output="screen"),
    ]
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="folder or file that ros2 bag plays"),
            DeclareLaunchArgument("rate", default_value="1.0", description="speed, 1.0 is that of the recording"),
            DeclareLaunchArgument("loop", default_value="false", choices=BOOL, description="begin again at the end"),
            DeclareLaunchArgument("use_sim_time", default_value="true", choices=BOOL, description="follow /clock"),
            RegisterEventHandler(OnStateTransition(goal_state="active", entities=players, handle_once=True)),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(base)),
        ]
    )
