"""The error of a user who can mend it."""


class UserError(Exception):
    """A mistake in a config, a folder or a file. The message is one sentence that names the key, the value and the cure."""
