"""What can go wrong while the demo models are made, said to the person who made them so."""


class DemoError(Exception):
    """Root: its message is all that needs to be shown."""


class CorpusError(DemoError):
    """The text breaks its own rules; the message names the line."""


class NotLearnt(DemoError):
    """A model was trained to the end and does not know its answers."""
