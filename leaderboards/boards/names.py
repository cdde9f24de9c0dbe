"""File names of boards and profiles."""

from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.output.escape import file_name


def board_stem(task: str) -> str:
    """File name of a task's board, without ending."""
    return f"board-{file_name(task)}"


def profile_stem(profile: Profile) -> str:
    """File name of a profile, without ending."""
    return f"profile-{file_name(profile.trained_on)}"
