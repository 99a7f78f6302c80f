"""A pod's life against a time of our own."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from overspill.backends.simulated.life import PodLife
from overspill.backends.simulated.options import Options
from overspill.backends.simulated.script import PREFIX, Scripts
from overspill.model.observation import Running, Terminated, Waiting
from overspill.model.podstatus import phase_of
from overspill.model.work import Container, Identity, WorkSpec

START = 1000.0


class Room:
    """Stock for every pod, and so many addresses."""

    limited = False

    def __init__(self, addresses=math.inf):
        self.addresses = addresses

    def take_stock(self):
        return True

    def take_address(self):
        if self.addresses < 1:
            return ""
        self.addresses -= 1
        return "10.0.0.1"


def born(*names, init=(), annotations=None, options=None, **fields):
    work = WorkSpec(
        identity=Identity("c", "n", "ns", "web", "uid"),
        containers=tuple(Container(name, f"image-{name}") for name in names or ("web",)),
        init_containers=tuple(
            Container(each, f"image-{each}") if isinstance(each, str) else each for each in init
        ),
        hostname="web",
        annotations={PREFIX + key: value for key, value in (annotations or {}).items()},
        **fields,
    )
    return PodLife(work, Scripts(options or Options()).script(work), seed=0, at=START)


def timeline(pod, until, room=None):
    """(seconds since the start, state) of the first app container, at each change."""
    room = room or Room()
    states = []
    while pod.due <= START + until:
        at = pod.due
        pod.advance(at, room)
        (main, *_) = pod.observation().containers
        states.append((at - START, main.state))
    return states


def test_it_runs_at_once_and_for_ever():
    pod = born()
    assert pod.advance(START, Room())
    assert pod.due == math.inf
    assert isinstance(pod.observation().containers[0].state, Running)
    assert not pod.advance(START + 1e9, Room())


def test_the_back_off_doubles_to_five_minutes():
    pod = born(annotations={"run-seconds": "0", "exit-code": "1"})
    waits = [at for at, state in timeline(pod, 1500) if isinstance(state, Waiting)]
    gaps = [round(later - earlier) for earlier, later in pairwise(waits)]
    assert gaps == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_good_run_makes_the_next_restart_immediate():
    pod = born(annotations={"run-seconds": "601", "exit-code": "1"})
    assert not any(isinstance(state, Waiting) for _, state in timeline(pod, 5000))
    assert pod.observation().containers[0].restarts == 8


def test_pulls_back_off_and_then_succeed():
    pod = born(annotations={"pull-failures": "3"})
    told = [
        (round(at), state.reason if isinstance(state, Waiting) else "") for at, state in timeline(pod, 100)
    ]
    assert told == [
        (0, "ErrImagePull"),
        (2, "ImagePullBackOff"),
        (10, "ErrImagePull"),
        (12, "ImagePullBackOff"),
        (30, "ErrImagePull"),
        (32, "ImagePullBackOff"),
        (70, ""),
    ]
    assert pod.observation().containers[0].restarts == 0


def test_start_takes_the_time_of_its_script():
    pod = born(annotations={"start-seconds": "3"})
    pod.advance(START + 2.9, Room())
    early = pod.observation()
    assert (early.ips, early.containers[0].state) == ((), Waiting("ContainerCreating"))
    pod.advance(START + 10, Room())
    assert pod.observation().containers[0].state == Running(START + 3), "not later for being looked at later"


def test_a_stop_may_take_a_while_but_no_longer_than_the_grace():
    for grace, ended_at, code in ((30, 5, 0), (4, 4, 137), (0, 2, 137)):
        pod = born(annotations={"stop-seconds": "5"})
        pod.advance(START, Room())
        pod.delete(START + 10, grace)
        assert not pod.gone
        pod.advance(START + 99, Room())
        assert pod.gone
        state = pod.observation().containers[0].state
        assert (state.finished_at, state.exit_code) == (START + 10 + ended_at, code)


def test_the_deadline_gives_the_pods_own_grace():
    pod = born(
        annotations={"stop-seconds": "3600"}, active_deadline_seconds=60, termination_grace_period_seconds=7
    )
    pod.advance(START + 61, Room())
    assert pod.observation().failed
    assert isinstance(pod.observation().containers[0].state, Running)
    pod.advance(START + 100, Room())
    state = pod.observation().containers[0].state
    assert (state.finished_at, state.exit_code) == (START + 67, 137)
    assert phase_of(pod.observation()) == "Failed"


def test_a_pod_between_two_runs_shows_its_end_when_it_is_deleted():
    pod = born(annotations={"run-seconds": "0", "exit-code": "3"})
    pod.advance(START, Room())
    assert isinstance(pod.observation().containers[0].state, Waiting)
    pod.delete(START + 1, 30)
    assert pod.gone
    (main,) = pod.observation().containers
    assert isinstance(main.state, Terminated)
    assert (main.state.exit_code, main.last_state, main.will_restart) == (3, None, False)


def test_exit_reason_is_told():
    pod = born(
        annotations={"run-seconds": "1", "exit-code": "137", "exit-reason": "OOMKilled"},
        restart_policy="Never",
    )
    pod.advance(START + 5, Room())
    assert pod.observation().containers[0].state.reason == "OOMKilled"


def test_without_an_address_it_waits_and_says_so():
    pod, room = born(), Room(addresses=0)
    pod.advance(START, room)
    assert "no address" in pod.observation().message
    room.addresses = 1
    pod.advance(START + 10, room)
    assert pod.observation().ips == ("10.0.0.1",)
    assert pod.observation().message == ""


def test_no_stock_is_told_as_not_provisioned():
    pod = born(annotations={"no-stock-seconds": "30"})
    pod.advance(START, Room())
    seen = pod.observation()
    assert (seen.provisioned, seen.reason, seen.failed) == (False, "NoStock", False)
    pod.advance(START + 30, Room())
    seen = pod.observation()
    assert (seen.provisioned, seen.reason) == (True, "")
    assert isinstance(seen.containers[0].state, Running)


def test_a_cloud_without_limits_says_nothing_about_room():
    pod = born()
    pod.advance(START, Room())
    assert pod.observation().provisioned is None


SCRIPTS = st.fixed_dictionaries(
    {},
    optional={
        "run-seconds": st.sampled_from(["0", "3", "uniform(1,20)", "700"]),
        "exit-code": st.sampled_from(["0", "1"]),
        "pull-failures": st.sampled_from(["1", "4", "always"]),
        "start-seconds": st.sampled_from(["0", "5", "exponential(4)"]),
        "run-seconds.init": st.sampled_from(["0", "8"]),
        "exit-code.init": st.sampled_from(["0", "2"]),
    },
)


@given(
    annotations=SCRIPTS,
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    deadline=st.sampled_from([None, 50]),
    looks=st.lists(st.floats(0, 2000), max_size=8),
)
def test_how_often_one_looks_changes_nothing(annotations, policy, deadline, looks):
    fields = {"init": ("init",), "restart_policy": policy, "active_deadline_seconds": deadline}
    often, once = (born(annotations=annotations, **fields) for _ in range(2))
    for look in sorted(looks):
        often.advance(START + look, Room())
    often.advance(START + 2000, Room())
    once.advance(START + 2000, Room())
    assert often.observation() == once.observation()
    assert often.due == once.due > START + 2000


# --- sidecars ---


def with_sidecars(*names, annotations=None, **fields):
    init = (
        *(Container(name, "image", restart_policy="Always") for name in names),
        Container("init", "image"),
    )
    return born(init=init, annotations=annotations, **fields)


def states(pod):
    seen = pod.observation()
    return {each.name: type(each.state) for each in (*seen.init_containers, *seen.containers)}


def test_sidecars_run_beside_init_containers_and_apps():
    pod = with_sidecars("one", "two", annotations={"run-seconds.init": "5"})
    pod.advance(START, Room())
    assert states(pod) == {"one": Running, "two": Running, "init": Running, "web": Waiting}
    assert phase_of(pod.observation()) == "Pending"
    pod.advance(START + 5, Room())
    assert states(pod) == {"one": Running, "two": Running, "init": Terminated, "web": Running}
    assert phase_of(pod.observation()) == "Running"
    assert [each.sidecar for each in pod.observation().init_containers] == [True, True, False]


def test_a_sidecar_keeps_no_job_from_completing_and_ends_after_it_in_reverse_order():
    annotations = {"run-seconds.web": "3", "stop-seconds": "1"}
    pod = with_sidecars("one", "two", annotations=annotations, restart_policy="Never")
    ends = {}
    while pod.due < math.inf:
        at = pod.due
        pod.advance(at, Room())
        ends |= {
            name: at - START for name, kind in states(pod).items() if kind is Terminated and name not in ends
        }
        ended = phase_of(pod.observation()) == "Succeeded"
        assert ended == (len(ends) == 4)
    assert ends == {"init": 0, "web": 3, "two": 4, "one": 5}


def test_a_sidecar_that_ends_is_started_again_whatever_the_pods_policy():
    pod = with_sidecars("one", annotations={"run-seconds.one": "2"}, restart_policy="Never")
    pod.advance(START + 2, Room())
    (one, _), (web,) = pod.observation().init_containers, pod.observation().containers
    assert (one.restarts, web.restarts, phase_of(pod.observation())) == (1, 0, "Running")


def test_a_sidecar_whose_image_comes_late_holds_up_what_follows():
    pod = with_sidecars("one", annotations={"pull-failures.one": "1"})
    pod.advance(START, Room())
    assert states(pod) == {"one": Waiting, "init": Waiting, "web": Waiting}
    pod.advance(START + 60, Room())
    assert states(pod) == {"one": Running, "init": Terminated, "web": Running}
