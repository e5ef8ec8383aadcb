"""What a slice needs: as many at once as there is room for."""

from pathlib import Path

import pytest

from indexfuzz.fleet.needs import Needs

TWO_NODES = {"CPU": 32.0, "GPU": 4.0, "accelerator_type:H100": 2.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("needs", "room"),
    [
        (Needs(), 32),
        (Needs(gpus=1.0), 4),
        (Needs(gpus=0.25), 16),
        (Needs(gpus=0.1), 32),
        (Needs(gpus=1.0, accelerator="H100"), 4),
        (Needs(gpus=1.0, accelerator="MI300X"), 0),
    ],
)
def test_room(needs, room):
    assert needs.room_in(TWO_NODES) == room
    assert needs.room_in({}) == 0


def test_every_slice_has_a_process_of_its_own_and_is_tried_again():
    options = Needs(gpus=1.0, accelerator="H100", retries=5, folder=Path("mine"), environment=(("A", "1"),)).options
    assert (options["num_gpus"], options["accelerator_type"], options["max_retries"]) == (1.0, "H100", 5)
    assert options["max_calls"] == 1
    assert options["runtime_env"] == {"working_dir": "mine", "env_vars": {"A": "1"}}
