"""How often a request is made again, and after which wait."""

from email.utils import formatdate

import pytest

from pipelines import patience
from pipelines.patience import RefusedRequest, patiently, patiently_signed, wait_s


@pytest.fixture
def waits(monkeypatch):
    """Pauses are noted, not made; the jitter is none."""
    made = []
    monkeypatch.setattr(patience.time, "sleep", made.append)
    monkeypatch.setattr(patience.random, "uniform", lambda low, high: low)
    return made


class Server:
    """Answers with each of some failures in turn, then with success."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.asked = []

    def __call__(self, url="a"):
        self.asked.append(url)
        if self.failures:
            raise self.failures.pop(0)
        return "content"


def refused(status, **headers):
    return RefusedRequest(status, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("failure", [refused(429), refused(503), refused(500), refused(504), ConnectionError("reset")])
def test_what_passes_is_asked_for_again_with_growing_waits(waits, failure):
    server = Server(failure, failure, failure)
    assert patiently(server) == "content"
    assert len(server.asked) == 4 and waits == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("failure", "asked"), [(refused(503), 4), (ConnectionError("reset"), 4), (refused(404), 2), (refused(400), 1)]
)
def test_what_does_not_pass_is_handed_on_with_the_number_of_requests(waits, failure, asked):
    server = Server(*[failure] * 9)
    with pytest.raises(type(failure)) as caught:
        patiently(server)
    assert len(server.asked) == caught.value.asked == asked


@pytest.mark.parametrize("before", [refused(503), ConnectionError("reset")])
def test_not_found_after_another_failure_is_confirmed_first(waits, before):
    assert patiently(Server(before, refused(404), before)) == "content"
    server = Server(before, refused(404), before, refused(404))
    with pytest.raises(RefusedRequest) as caught:
        patiently(server)
    assert len(server.asked) == 4 and caught.value.status == 404 and caught.value.asked == 2


def test_what_fails_in_every_way_ends(waits):
    server = Server(*[refused(404), *[refused(503)] * 3, refused(404)] * 9)
    with pytest.raises(RefusedRequest):
        patiently(server)
    assert len(server.asked) == 5


def test_a_server_that_says_when_is_obeyed(waits):
    assert patiently(Server(refused(429, Retry_After="7"), refused(503, retry_after="2"))) == "content"
    assert waits == [7.0, 2.0]


def test_waits_of_those_who_were_refused_together_differ(monkeypatch):
    made = []
    monkeypatch.setattr(patience.time, "sleep", made.append)
    for _ in range(20):
        patiently(Server(refused(503)))
    assert len(set(made)) > 10 and all(0.25 <= wait <= 0.25 * 1.25 for wait in made)


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_a_date_to_wait_for_is_utc_with_or_without_a_zone(zone):
    now = patience.time.time()
    date = formatdate(now + 30, usegmt=True).replace("GMT", zone)
    assert 28 <= wait_s(0, {"Retry-After": date}) <= 30


def test_a_signature_that_has_run_out_is_renewed_once_and_the_new_address_is_known(waits):
    server = Server(refused(403))
    assert patiently_signed(server, "old", lambda url: "new") == ("content", "new")
    assert server.asked == ["old", "new"] and waits == []
    with pytest.raises(RefusedRequest):
        patiently_signed(Server(refused(403), refused(403)), "old", lambda url: "new")


@pytest.mark.parametrize("renew", [None, lambda url: url])
def test_without_another_signature_a_refusal_is_final(waits, renew):
    server = Server(refused(403), refused(403))
    with pytest.raises(RefusedRequest):
        patiently_signed(server, "old", renew)
    assert server.asked == ["old"]
