"""A process that plays what a fresh one would, one time after another: another worker, for which no process need be forked each time."""

import os
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from tests.panel.stage import Play, Stage


class Understudy:
    """Plays for a theatre until it is closed."""

    def __init__(self, folder: Path, play: Play) -> None:
        self._theatre, ours = Pipe()
        self._process = os.fork()
        if self._process:
            ours.close()
            return
        try:
            self._theatre.close()
            self._serve(ours, Stage(folder, play, lambda _stage: None))
        finally:
            os._exit(1)

    def _serve(self, theatre: Connection, stage: Stage) -> None:
        while True:
            act, folder, given = theatre.recv()
            try:
                stage.begin_in(folder)
                getattr(stage, act)(*given)
                stage.leave()
                theatre.send("")
            except BaseException:
                theatre.send(traceback.format_exc())
                raise

    def play(self, act: str, folder: Path, *given: int) -> None:
        """Let it do that of `Stage` in a folder; returns when all of it stands there."""
        self._theatre.send((act, folder, given))
        error = self._theatre.recv()
        assert not error, error

    def close(self) -> None:
        """It ends."""
        self._theatre.close()
        os.waitpid(self._process, 0)
