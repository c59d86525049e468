# Sourced by setup-env and with-env (bash): where things are, whether they are up to date, and how to enter them.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
OVERLAY="$ROOT/install/x2sam_ros"

# True where a ROS 2 distribution is sourced. The overlay of this repository does not count, it sets no ROS_DISTRO.
has_ros() { [[ -n "${ROS_DISTRO:-}" && -n "${AMENT_PREFIX_PATH:-}" ]]; }

# A ROS distribution gets an environment of its own, so that sourcing one does not undo the other.
VENV="${X2SAM_VENV:-$ROOT/.venv$(has_ros && echo "-$ROS_DISTRO" || true)}"
PACKAGES_STAMP="$VENV/.x2sam_packages"
OVERLAY_STAMP="$ROOT/install/.x2sam_overlay"

# What the installed packages depend on, in one word.
packages_key() {
  {
    cat "$ROOT"/requirements/*.txt "$ROOT"/scripts/setup-env "$ROOT"/plugins/*/pyproject.toml 2>/dev/null
    printf '%s\n' "$(readlink -f "$VENV/bin/python")" "${ROS_DISTRO:-wheels}"
  } | sha256sum
}

# What the built overlay depends on, in one word. Python files are linked, so only a new launch or config file counts.
overlay_key() {
  {
    cat "$ROOT"/{CMakeLists.txt,package.xml,entry_points.txt} "$ROOT"/msg/*.msg "$ROOT"/srv/*.srv
    printf '%s\n' "$ROOT"/{config,launch}/* "$VENV"
    cat "$PACKAGES_STAMP"
  } | sha256sum
}

packages_are_current() { [[ -f "$PACKAGES_STAMP" && "$(<"$PACKAGES_STAMP")" == "$(packages_key)" ]]; }
overlay_is_current() { [[ -f "$OVERLAY_STAMP" && "$(<"$OVERLAY_STAMP")" == "$(overlay_key)" ]]; }

# Prepend $2 to the list of paths called $1.
prepend() { export "$1=$2${!1:+:${!1}}"; }

# Enter the virtual environment and, without a ROS distribution, the ROS wheels inside it.
enter_venv() {
  export VIRTUAL_ENV="$VENV"
  prepend PATH "$VENV/bin"
  has_ros && return
  prepend AMENT_PREFIX_PATH "$VENV"
  prepend CMAKE_PREFIX_PATH "$VENV"
  local libraries
  for libraries in "$VENV"/lib/python3*/site-packages/ros_*.libs "$VENV/lib"; do
    [[ -d "$libraries" ]] && prepend LD_LIBRARY_PATH "$libraries"
  done
  # The wheels would start Python a second time to set LD_LIBRARY_PATH; it is set.
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
}

# Enter the built overlay. The source tree comes first in PYTHONPATH, so that a new module needs no build.
enter_overlay() {
  set +u
  COLCON_CURRENT_PREFIX="$OVERLAY" . "$OVERLAY/share/x2sam_ros/package.sh"
  set -u
  prepend PYTHONPATH "$ROOT"
  prepend PATH "$OVERLAY/lib/x2sam_ros"
  export X2SAM_ENV="$ROOT"
}
