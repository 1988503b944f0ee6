"""Events that nobody has read yet: tokens are joined, so that a slow reader holds an answer's text and no more."""

from collections import deque

from deepseek.core.engine import Event, Finish, Ready, TokenLogprob, Tokens, Usage
from deepseek.engine.stream import joined, put


def tokens(text: str, choice: int = 0, version: int = 0, controls: tuple[int, ...] = ()) -> Tokens:
    return Tokens("r", choice, text, (1,), None, version, controls)


def unread(*events: Event) -> list[Event]:
    found: deque[Event] = deque()
    for event in events:
        put(found, event)
    return list(found)


def test_tokens_of_choices_in_turn_are_joined_to_one_event_each() -> None:
    found = unread(Ready("r", 1), *(tokens(text, choice) for text in "abc" for choice in range(3)))
    assert [(event.choice, event.text) for event in found[1:] if isinstance(event, Tokens)] == [
        (0, "abc"),
        (1, "abc"),
        (2, "abc"),
    ]


def test_nothing_is_joined_across_other_events_or_other_weights() -> None:
    finish = Finish("r", ("stop",), Usage(1, 1))
    assert len(unread(tokens("a"), Ready("r", 1), tokens("b"), finish)) == 4
    assert len(unread(tokens("a", version=1), tokens("b", version=2))) == 2


def test_control_tokens_keep_their_places() -> None:
    one = joined(tokens("ab<x>", controls=(2,)), tokens("<y>c<x>", controls=(0, 4)))
    assert one.text == "ab<x><y>c<x>" and one.controls == (2, 5, 9) and one.token_ids == (1, 1)


def test_log_probabilities_stay_in_order() -> None:
    first, second = (Tokens("r", 0, "", (token,), (TokenLogprob(token, -1.0),)) for token in (5, 6))
    assert [entry.token_id for entry in joined(first, second).logprobs or ()] == [5, 6]
