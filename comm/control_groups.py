"""The control groups of this process, whose limits hold beside those of the machine. No MPI."""

from pathlib import Path, PurePath


def folders(controller: str, proc: Path = Path("/proc/self")) -> list[Path]:
    """The folders of this process's group and of all above it that can be seen, in each hierarchy that may limit by
    `controller`; none where there are no control groups.

    Versions 1 and 2 (cgroups(7)): `cgroup` of `proc` names the group in each hierarchy, `mountinfo` the folder where a
    hierarchy, or in a container a branch of it, is mounted (proc(5)).
    """
    try:
        groups = [line.split(":", 2)[1:] for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.partition(" - ")[::2] for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # no Linux
        return []
    found = []
    for place, source in mounts:
        branch, folder = place.split()[3:5]
        kind, _, options = source.split(" ", 2)
        for controllers, group in groups:
            if kind == "cgroup":
                limits = controller in controllers.split(",") and controller in options.split(",")
            else:
                limits = kind == "cgroup2" and not controllers
            if limits:
                found += [Path(folder, level) for level in _levels(PurePath(group), branch)]
    return found


def _levels(group: PurePath, branch: str) -> list[PurePath]:
    """The group and those above it, as seen from the branch that is mounted; a group outside has only the branch."""
    inside = [level.relative_to(branch) for level in (group, *group.parents) if level.is_relative_to(branch)]
    return inside or [PurePath()]
