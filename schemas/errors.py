"""The few kinds of fault that Tollway tells apart; everything else is a bug and ends the process."""


class TollwayError(Exception):
    """Base of the faults that Tollway names itself. Never raised directly."""


class DecodeError(TollwayError):
    """Bytes that are not a record of ours: to the dead-letter topic, with reason and origin."""


class InvalidEvent(TollwayError):
    """A decodable record that breaks a rule of its contract: to the dead-letter topic, with the rule it breaks."""


class TransportError(TollwayError):
    """A broker, store or provider could not be reached: retried with backoff, then the process stops."""


class ConfigError(TollwayError):
    """Configuration or input that a person has to mend: exit code 2.

    Attributes:
        problems: one line per problem, each naming the place, the value and the remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))
