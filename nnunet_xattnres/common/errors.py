"""What goes wrong by what a user did, and not by a fault of ours."""


class UserError(Exception):
    """Something that the user can mend; the message names the culprit and the way out. Commands print it and end."""
