"""What makes a training resumable: its history, and the weights of the last and the best epoch, in a folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.config import TrainConfig
from export.source import TrainingWindows
from runner.digests import digest
from runner.errors import UsageError, explain
from runner.storage import OutputFolder

STATE_FILE = "state.json"
HISTORY_FILE = "history.csv"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the history; losses are `masked_mse` in raw units.

    Attributes:
        train: the running loss while the weights still moved.
        teacher_forced, free_running: on the validation windows, after the epoch.
    """

    epoch: int
    train: float
    teacher_forced: float
    free_running: float


class WorkFolder:
    """The folder beside the bundle that makes training resumable: weights by epoch, and a small state file.

    The state file names the weights it belongs to and is replaced as a whole, so a kill at any moment leaves a
    consistent pair. Best epoch and patience are computed from the history, never stored.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        self.files = OutputFolder(folder)
        self.files.prepare()
        self.files.reclaim()
        self.history = self._load()

    def weights(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.weights.h5"

    def save(self, model: Any, line: Epoch) -> None:
        """Keep the weights of this epoch and of the best one, and forget all others."""
        model.save_weights(self.weights(line.epoch), overwrite=True)
        self.history = (*self.history, line)
        state = {"identity": self.identity, "history": [asdict(epoch) for epoch in self.history]}
        self.files.write(STATE_FILE, json.dumps(state, indent=2).encode())
        self.files.write(HISTORY_FILE, _csv(self.history).encode())
        keep = {self.weights(line.epoch), self.weights(best_epoch(self.history).epoch)}
        for path in self.folder.glob("epoch-*.weights.h5"):
            if path not in keep:
                path.unlink()

    def _load(self) -> tuple[Epoch, ...]:
        content = self.files.read(STATE_FILE)
        if content is None:
            return ()
        state = json.loads(content)
        if state["identity"] != self.identity:
            remedy = f"remove {self.folder}, or give another --out"
            raise UsageError(explain(f"{self.folder} holds a training of another config or other data", remedy=remedy))
        return tuple(Epoch(**line) for line in state["history"])


def identity_of(config: TrainConfig, train: TrainingWindows, valid: TrainingWindows) -> str:
    """Return what a training may be resumed for: the same files, and all of the config that training looks at."""
    trained = {key: value for key, value in config.record().items() if key != "precision"}
    return digest({"config": trained, "train": train.signature, "valid": valid.signature})


def best_epoch(history: tuple[Epoch, ...]) -> Epoch:
    """Return the epoch with the lowest free-running loss, the earliest of equals."""
    return min(history, key=lambda line: (line.free_running, line.epoch))


def _csv(history: tuple[Epoch, ...]) -> str:
    lines = [f"{line.epoch},{line.train!r},{line.teacher_forced!r},{line.free_running!r}" for line in history]
    return "\n".join(["epoch,train,teacher_forced,free_running", *lines]) + "\n"
