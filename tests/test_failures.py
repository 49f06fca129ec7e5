import re

import pytest

from w207lib.running import failures


@pytest.mark.parametrize(
    ("error", "says"),
    [(MemoryError("Unable to allocate 29.8 GiB"), "MemoryError: Unable .*smaller batch_size"),
     (RuntimeError("Graph execution error:\n\n\x1b[31mOOM when allocating\x1b[0m\nhint"),
      "RuntimeError: OOM when allocating. Give a smaller batch_size"),
     (ValueError("\n\n  one\ntwo"), "ValueError: one$"), (KeyError(), "KeyError$")],
)  # fmt: skip
def test_an_error_is_one_line_with_advice_where_memory_ran_out(error, says):
    assert re.match(says, failures.last_line(error))
