"""Why the engine does not answer a request."""


class Overloaded(Exception):
    """Too much sound waits.

    Attributes:
        retry_after_s: when there will be room, by the speed of late.
    """

    def __init__(self, retry_after_s: float):
        super().__init__(f"the server is busy; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class TooFarBehind(Exception):
    """More sound of a live stream waits than is kept: it comes faster than the server hears."""


class DeadlinePassed(Exception):
    """The request was not finished in time."""


class Draining(Exception):
    """The service is about to stop."""


class RecognitionFailed(Exception):
    """A segment failed in its batch, and again alone."""


class UnknownModeError(Exception):
    """The mode cannot be served with this model."""
