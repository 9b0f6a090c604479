"""Lines read as questions."""

import pytest

from microgpt.data.questions import TextQuestion, by_mark, mark_pattern, questions_of
from microgpt.errors import UsageError

TEXT = b"ab1x;\nno question\ncd25-6-;\n"


def test_a_question_ends_at_the_first_mark_and_stands_behind_the_lines_above():
    found = questions_of(TEXT, mark_pattern(None, "[0-9]"), lines_before=1)
    assert found == [
        TextQuestion(b"", b"ab1", b"x;\n", "1"),
        TextQuestion(b"no question\n", b"cd2", b"5-6-;\n", "2"),
    ]
    assert [q.before for q in questions_of(TEXT, mark_pattern("-", None), 9)] == [
        b"ab1x;\nno question\n"
    ]


def test_a_line_that_ends_with_its_mark_asks_nothing():
    assert questions_of(b"x =\ny =\r\nz = 1", mark_pattern("=", None), 0) == [
        TextQuestion(b"", b"z =", b" 1", "=")
    ]


def test_a_mark_given_as_text_is_no_pattern():
    assert [q.mark for q in questions_of(b"1+1.5\n1.2\n", mark_pattern(".", None), 0)] == [".", "."]
    assert questions_of(b"11\n", mark_pattern(".", None), 0) == []


@pytest.mark.parametrize(("text", "pattern"), [("", None), (None, ""), (None, "x*"), (None, "(")])
def test_a_mark_that_is_empty_or_no_pattern_is_refused(text, pattern):
    with pytest.raises(UsageError):
        mark_pattern(text, pattern)


def test_answers_are_counted_by_mark():
    questions = questions_of(b"a2x\nb1x\nc2x\n", mark_pattern(None, "[0-9]"), 0)
    assert by_mark(questions, [True, False, False]) == {"1": (0, 1), "2": (1, 2)}
