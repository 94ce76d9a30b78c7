"""What a study declares before its first training: its hypotheses, each with the test that answers it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from nnunet_xattnres.common.errors import UserError

# of a training or, for the spread, of all repeats, with the tests that fit it
OUTCOMES = {
    "final_dice": ("mann_whitney", "welch"),
    "iterations_to_90": ("mann_whitney",),  # not reached counts as one iteration more: ranks hold, means would not
    "spread": ("brown_forsythe",),
}


@dataclass(frozen=True)
class Hypothesis:
    """A claim, and the test that it has to stand.

    Attributes:
        words: the claim.
        schedule: the one whose trainings are taken.
        outcome: one of ``OUTCOMES``: the Dice of the validation cases; the iterations to 90% of the end of the study's
            first trainer on the same schedule; the spread of the Dice between repeats.
        trainer, against: whose repeats are compared.
        test: one of those that ``OUTCOMES`` has for the outcome; all are two-sided.
    """

    words: str
    schedule: str
    outcome: str
    trainer: str
    against: str
    test: str


def check_hypothesis(hypothesis: Hypothesis, trainers: Mapping[str, Sequence[str]], where: str) -> None:
    """Refuse what cannot be tested.

    Args:
        trainers: of every schedule.
        where: the beginning of the error.

    Raises:
        UserError: for a schedule, an outcome, a test or a trainer that there is not.
    """
    for name, value in asdict(hypothesis).items():
        if not (isinstance(value, str) and value.strip()):
            raise UserError(f"{where}: {name} must be text, not {value!r}")
    if hypothesis.schedule not in trainers:
        raise UserError(f"{where}: there is no schedule {hypothesis.schedule!r}; there are {', '.join(trainers)}")
    if hypothesis.outcome not in OUTCOMES:
        raise UserError(f"{where}: there is no outcome {hypothesis.outcome!r}; there are {', '.join(OUTCOMES)}")
    tests = OUTCOMES[hypothesis.outcome]
    if hypothesis.test not in tests:
        raise UserError(f"{where}: {hypothesis.outcome} is tested by {' or '.join(tests)}, not {hypothesis.test!r}")
    here = trainers[hypothesis.schedule]
    for trainer in (hypothesis.trainer, hypothesis.against):
        if trainer not in here:
            raise UserError(f"{where}: {hypothesis.schedule} does not train {trainer!r}, only {', '.join(here)}")
    if hypothesis.trainer == hypothesis.against:
        raise UserError(f"{where}: {hypothesis.trainer} is compared with itself")
