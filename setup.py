"""Build the library and the command line for pip, without ROS; setup.cfg says what, CMakeLists.txt serves colcon."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithInterfaces(build_py):
    """Adds the message definitions, which lie beside the package, as ``x2sam_ros/interfaces``: bags carry them."""

    def run(self) -> None:
        """Copy modules and data as usual, then the definitions; an editable build reads them where they are."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "x2sam_ros" / "interfaces"
        self.mkpath(str(folder))
        for definition in sorted(Path("msg").glob("*.msg")):
            self.copy_file(str(definition), str(folder / definition.name))


setup(cmdclass={"build_py": BuildWithInterfaces})
