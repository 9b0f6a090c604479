"""What ids mean for lines."""

import pytest

from microgpt.data.lines import only_line_end
from microgpt.errors import UsageError
from microgpt.text.tokenizer import Tokenizer


def test_the_one_token_that_ends_lines():
    assert only_line_end(Tokenizer.byte()) == ord("\n")
    assert only_line_end(Tokenizer.from_merges([(104, 105)])) == ord("\n")


def test_a_second_token_that_holds_a_line_end_is_refused():
    with pytest.raises(UsageError, match=r"2 hold a line end, such as b';\\n': use --byte"):
        only_line_end(Tokenizer.from_merges([(59, 10)]))
