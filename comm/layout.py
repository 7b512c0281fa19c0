"""Which ranks compute and which serve, and who holds what of the model."""

from dataclasses import dataclass

from outpace.comm.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Ranks 0 to workers - 1 compute, the `servers` after them serve; without servers every worker has a model."""

    workers: int
    servers: int = 0

    def held(self, dim: int) -> dict[int, slice]:
        """Who holds the model: each such rank with the slice of its vector that it has.

        >>> Layout(workers=4, servers=2).held(9)
        {4: slice(0, 4, None), 5: slice(4, 9, None)}
        >>> Layout(workers=2).held(9)
        {0: slice(0, 9, None), 1: slice(0, 9, None)}
        """
        if not self.servers:
            return dict.fromkeys(range(self.workers), slice(0, dim))
        cuts = [dim * s // self.servers for s in range(self.servers + 1)]
        return {self.workers + s: slice(cuts[s], cuts[s + 1]) for s in range(self.servers)}

    def check(self, dim: int) -> None:
        """Raise UserError where a server would have nothing of a model of so many coordinates."""
        if self.servers > dim:
            raise UserError(f"--servers is {self.servers}; the model has {dim} coordinate(s) to share out")

    @property
    def ranks(self) -> int:
        return self.workers + self.servers

    @property
    def models(self) -> int:
        """How many whole models the slices make: one per worker, or the servers' one."""
        return 1 if self.servers else self.workers

    @property
    def desk(self) -> int:
        """The rank that hands out the shared budget: a server where there is one, else worker 0."""
        return self.workers if self.servers else 0
