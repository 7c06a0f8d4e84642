"""Where the teachers are while it is not their turn."""

from collections.abc import Mapping, Sequence

import torch

from radio_core.teachers import Teacher


class TeacherBench:
    """The teachers of a process, on the device when they are needed.

    Args:
        teachers: adaptor name -> teacher.
        device: where they run.
        offload: move teachers back to the CPU's memory when others are needed.
    """

    def __init__(
        self, teachers: Mapping[str, Teacher], device: torch.device, offload: bool
    ) -> None:
        self.teachers, self.device, self.offload = dict(teachers), device, offload
        self._here = set() if offload else set(self.teachers)

    def take(self, names: Sequence[str]) -> dict[str, Teacher]:
        """The named teachers on the device; those of an earlier turn make room first."""
        for name in self._here - set(names) if self.offload else ():
            self.teachers[name].to("cpu")
            self._here.remove(name)
        for name in names:
            if name not in self._here:
                self.teachers[name].to(self.device)
                self._here.add(name)
        return {name: self.teachers[name] for name in names}
