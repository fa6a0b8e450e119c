"""Show a training's progress: a bar with the time left on a terminal, a line an epoch elsewhere."""

import importlib.util
import time
from pathlib import Path
from typing import IO, Any

from runner.errors import UsageError, explain


def display_callbacks(stream: IO[str]) -> list[Any]:
    """Return the Keras callbacks for one training; Keras tells them its epochs and the steps of each."""
    return [_bar(stream) if stream.isatty() else _lines(stream)]


def require_tensorboard() -> None:
    """Find out before training whether TensorBoard is installed.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(explain("tensorboard = true needs TensorBoard", remedy="pip install 'freerun[tensorboard]'"))


def tensorboard_callbacks(folder: Path) -> list[Any]:
    """Return Keras' own TensorBoard callback, which writes into the folder of a training."""
    import keras

    return [keras.callbacks.TensorBoard(log_dir=str(folder / "tensorboard"))]


def _lines(stream: IO[str]) -> Any:
    import keras

    class Lines(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.started, self.done = time.monotonic(), 0

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.done += 1
            spent = time.monotonic() - self.started
            epochs = self.params["epochs"]
            left = spent / self.done * (epochs - epoch - 1)
            stream.write(f"epoch {epoch + 1}/{epochs}  {losses(logs)}  {spent:.0f} s, about {left:.0f} s left\n")
            stream.flush()

    return Lines()


def _bar(stream: IO[str]) -> Any:
    import keras
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(file=stream))

    class Bar(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            bar.start()
            self.epochs, self.steps = self.params["epochs"], self.params["steps"]
            self.task = bar.add_task("epoch 1", total=self.epochs * self.steps)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            bar.update(self.task, completed=epoch * self.steps, description=f"epoch {epoch + 1}/{self.epochs}")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            bar.advance(self.task)

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            bar.console.print(f"epoch {epoch + 1}/{self.epochs}  {losses(logs)}", highlight=False)

        def on_train_end(self, logs: Any = None) -> None:
            bar.stop()

    return Bar()


def losses(logs: dict[str, float] | None) -> str:
    """Say both validation losses of an epoch's logs in one line."""
    found = logs or {}
    forced, free = found.get("teacher_forced", float("nan")), found.get("free_running", float("nan"))
    return f"masked MSE: teacher-forced {forced:.5f}, free-running {free:.5f}"
