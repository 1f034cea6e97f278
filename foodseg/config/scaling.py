"""`scaling`: workers and what each gets; the names of ray.train.ScalingConfig."""

from pydantic import Field, field_validator

from foodseg.config.section import Section


class ScalingConfig(Section):
    """`num_workers: 0` trains in this process without Ray."""

    num_workers: int | tuple[int, int] = Field(
        1,
        description="data-parallel workers; [min, max] = elastic, in steps that divide train.global_batch; "
        "0 = in this process, without Ray",
    )
    use_gpu: bool = Field(
        False,
        description="one GPU per worker (NCCL), or with num_workers 0 this machine's (CUDA or mps); else CPU (gloo)",
    )
    resources_per_worker: dict[str, float] | None = Field(
        None,
        description="Ray resources of a worker, e.g. {CPU: 4}; its CPUs are its threads (data.decode_processes "
        "come on top); null = the cores of this machine shared evenly, on a cluster 1 CPU with a GPU, else as many "
        "CPUs as leave enough for the data",
    )

    @field_validator("num_workers")
    @classmethod
    def _range(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, int):
            if value < 0:
                raise ValueError(f"must be 0 (no Ray) or more, found {value}")
        elif not 1 <= value[0] <= value[1]:
            raise ValueError(f"an elastic range must be [min, max] with 1 <= min <= max, found {list(value)}")
        return value

    @field_validator("resources_per_worker")
    @classmethod
    def _positive(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and any(amount <= 0 for amount in value.values()):
            raise ValueError(f"every amount must be above 0, found {value}")
        return value

    @property
    def world_sizes(self) -> range:
        """Every number of processes from the fewest to the most."""
        if isinstance(self.num_workers, int):
            return range(max(1, self.num_workers), max(1, self.num_workers) + 1)
        return range(self.num_workers[0], self.num_workers[1] + 1)

    def even_world_sizes(self, global_batch: int) -> list[int]:
        """Returns the numbers of processes that the batch can be split evenly over, ascending."""
        return [size for size in self.world_sizes if global_batch % size == 0]
