"""Random lives of a Deployment under a policy: what must hold at every step, and what when all is quiet.

A failure that hypothesis shrinks becomes a test with a name, in `test_placement_state.py`.
"""

import collections
from typing import Any, ClassVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from placement_model import Cluster, cost, pool

import placing
from overspill.placement import patch as patches
from overspill.placement.decide import Surroundings, cost_of
from overspill.placement.managed import Managed
from overspill.placement.nodes import Node, NodeMeta

NODES = {
    "node-of-base": Node(NodeMeta("node-of-base")),
    "node-of-elastic": Node(NodeMeta("node-of-elastic", labels=placing.VIRTUAL)),
}
EVICT = {"mode": "Evict", "intervalSeconds": 1, "stabilizationSeconds": 1, "maxUnavailable": 2}


class Assigner:
    """What `placement/assigner.py` does, without a network: events in, patches and deletions out, in any order."""

    def __init__(self, cluster, policy):
        self.cluster = cluster
        self.managed = Managed(policy)
        self.queue = {}
        self.due = None
        pods, self._events = cluster.watch()
        for pod in pods:
            self.managed.apply(pod, cluster.clock)
            self.queue[pod.metadata.uid] = None

    def stop(self):
        self.cluster.watchers = [each for each in self.cluster.watchers if each is not self._events]

    @property
    def state(self):
        return self.managed.state

    @property
    def idle(self):
        return not self._events and self.due is None

    def around(self):
        return Surroundings(
            now=self.cluster.clock, nodes=NODES.values, node=NODES.get, is_old=self.cluster.is_old
        )

    def hear(self, count):
        for kind, content in self._events[:count]:
            pod = placing.decoded(content)
            if kind == "DELETED":
                self.managed.remove(pod.metadata.uid)
            else:
                self.managed.apply(pod, self.cluster.clock)
                self.queue[pod.metadata.uid] = None
        del self._events[:count]

    def look(self):
        if not self.managed.policy.gates:
            self.queue |= dict.fromkeys(self.state.pods)
            self.due = None
            return
        found = self.managed.look(self.around(), desired=self.cluster.replicas)
        self.queue |= dict.fromkeys(
            [pod.metadata.uid for pod, _ in found.decisions.placed] + found.decisions.touched
        )
        for pod, _ in found.doomed:
            self.cluster.delete(pod.metadata.name, version=pod.metadata.resource_version)
        for pod in found.moving:
            self.cluster.delete(pod.metadata.name)
        self.due = found.due

    def refresh(self):
        """What happens when revisions change places."""
        self.queue |= dict.fromkeys(self.state.seats)

    def write(self, count):
        """Send some patches; the number of those that were taken."""
        uids = list(self.queue)[:count]
        for uid in uids:
            del self.queue[uid]
        return sum(self._write(uid) for uid in uids)

    def _write(self, uid):
        pod, seat = self.state.pods.get(uid), self.state.seats.get(uid)
        if pod is None or pod.deleting:
            return False
        if not self.managed.policy.gates:
            return pod.gated and self.cluster.patch(uid, patches.release(pod))
        if seat is None:
            return False
        spec = self.state.policy.spec
        into = spec.pools[seat.pool] if seat.pool >= 0 else None
        marks = patches.marks("web", into, rank=seat.rank, cost=cost_of(self.state, seat, self.around()))
        if not pod.gated:
            return self.cluster.patch(uid, patches.mark(pod, *marks))
        seat.sent = True
        return self.cluster.patch(uid, patches.place(pod, into, *marks))

    def edit(self, policy):
        """Take another spec, keeping what is on its way."""
        self.managed.edit(policy)
        self.queue |= dict.fromkeys(self.state.pods)


class Life(RuleBasedStateMachine):
    """Scalings, rollouts, failures and edits, in any order, each component as slow as it likes."""

    base = 3
    room = 100
    leaders = 1
    suspended = False
    spec: ClassVar[dict[str, Any]] = {}

    def policy(self):
        pools = placing.pool("base", self.limit()), placing.pool("elastic")
        return placing.policy(*pools, suspend=self.suspended, **self.spec)

    def limit(self):
        return self.base

    @initialize(replicas=st.integers(0, 12))
    def start(self, replicas):
        self.cluster = Cluster(replicas)
        self.cluster.room = self.room
        self.assigners = [Assigner(self.cluster, self.policy()) for _ in range(self.leaders)]
        self.on_base = collections.Counter()

    def assigner(self, which):
        return self.assigners[which % len(self.assigners)]

    # --- what users do ---

    @rule(replicas=st.integers(0, 12))
    def scale(self, replicas):
        self.cluster.replicas = replicas

    @rule(template=st.integers(1, 4))
    def roll_out(self, template):
        if template != self.cluster.template:
            self.cluster.roll_out(template)
            for each in self.assigners:
                each.refresh()

    @precondition(lambda self: hasattr(self, "cluster") and len(self.cluster.templates) > 1)
    @rule()
    def undo(self):
        """Back to the revision before."""
        *_, before, _ = sorted(self.cluster.templates, key=self.cluster.templates.__getitem__)
        self.roll_out(template=before)

    @rule()
    def pause_or_resume(self):
        self.cluster.paused = not self.cluster.paused

    @rule(base=st.integers(0, 6))
    def edit(self, base):
        self.base = base
        self._edited()

    @rule()
    def suspend_or_resume(self):
        self.suspended = not self.suspended
        self._edited()

    def _edited(self):
        for each in self.assigners:
            each.edit(self.policy())

    # --- what happens ---

    @rule(which=st.integers(0, 30))
    def kill_a_pod(self, which):
        if self.cluster.pods:
            self.cluster.delete(sorted(self.cluster.pods)[which % len(self.cluster.pods)])

    @rule(which=st.integers(0, 30))
    def a_pod_is_not_ready(self, which):
        if self.cluster.pods:
            self.cluster.unready(sorted(self.cluster.pods)[which % len(self.cluster.pods)])

    @rule()
    def lose_the_base(self):
        self.cluster.lose_base()

    @rule()
    def the_base_is_back(self):
        self.cluster.base_is_up = True

    @rule(seconds=st.sampled_from([1, 31, 121]))
    def time_passes(self, seconds):
        self.cluster.clock += seconds

    @rule(which=st.integers(0, 1))
    def the_assigner_is_killed(self, which):
        index = which % len(self.assigners)
        self.assigners[index].stop()
        self.assigners[index] = Assigner(self.cluster, self.policy())

    # --- the components, as slow as they like ---

    @rule()
    def deployment_steps(self):
        self.cluster.sync_deployment()

    @rule()
    def replica_sets_step(self):
        self.cluster.sync_replica_sets()

    @rule()
    def scheduler_steps(self):
        self.cluster.schedule()

    @rule()
    def kubelets_step(self):
        self.cluster.run_kubelets()

    @rule(which=st.integers(0, 1), count=st.integers(1, 30))
    def hear(self, which, count):
        self.assigner(which).hear(count)

    @rule(which=st.integers(0, 1))
    def look(self, which):
        self.assigner(which).look()

    @rule(which=st.integers(0, 1), count=st.integers(1, 30))
    def write(self, which, count):
        self.assigner(which).write(count)

    @rule(
        which=st.integers(0, 1),
        replicas=st.integers(4, 12),
        heard=st.integers(1, 12),
        sent=st.integers(0, 4),
    )
    def burst(self, which, replicas, heard, sent):
        """Much at once, of which the assigner gets to a part."""
        self.cluster.replicas = replicas
        self.cluster.sync_deployment()
        self.cluster.sync_replica_sets()
        self.assigner(which).hear(heard)
        self.assigner(which).look()
        self.assigner(which).write(sent)

    # --- what must hold ---

    @invariant()
    def base_is_never_above_its_bound(self):
        """More pods than the bound only where it has come down, and then never a further one."""
        if not hasattr(self, "cluster"):
            return
        now = collections.Counter()
        for pod in self.cluster.active():
            if pool(pod) == "base" and pod["metadata"]["name"] not in self.cluster.strays:
                now[pod["metadata"]["ownerReferences"][0]["name"]] += 1
                now["all revisions"] += 1
        for owner, count in now.items():
            bound = self.bound(owner)
            assert bound is None or count <= max(bound, self.on_base[owner]), (
                f"{count} base pods of {owner}, {bound} allowed"
            )
        self.on_base = now

    def bound(self, owner):
        return None if owner == "all revisions" else self.base * self.leaders

    @rule()
    def quiet(self):
        """Everybody gets to do all that is left to do."""
        self.settle()
        pods = self.cluster.active()
        assert not [pod for pod in pods if pod["spec"].get("schedulingGates")]
        # What was let go while the policy was suspended is adopted where it runs, as soon as it does.
        assert all(pool(pod) for pod in pods if pod["spec"].get("nodeName"))
        by_owner = collections.defaultdict(list)
        for pod in filter(pool, pods):
            by_owner[pod["metadata"]["ownerReferences"][0]["name"]].append(pod)
        for owner, members in by_owner.items():
            assert len({cost(pod) for pod in members}) == len(members), owner
        self.state_is_that_of_a_fresh_list()

    def settle(self):
        """Nodes are back, nothing is paused or suspended, one assigner leads, and time passes until nothing changes."""
        cluster = self.cluster
        cluster.base_is_up, cluster.stock, cluster.paused = True, True, False
        for each in self.assigners[1:]:
            each.stop()
        del self.assigners[1:]
        if self.suspended:
            self.suspend_or_resume()
        (assigner,) = self.assigners
        for _ in range(200):
            before = dict(cluster.wanted), set(cluster.pods)
            cluster.clock += 10
            cluster.sync_deployment()
            cluster.sync_replica_sets()
            assigner.hear(1000)
            assigner.look()
            assigner.write(1000)
            self.base_is_never_above_its_bound()
            cluster.schedule()
            cluster.run_kubelets()
            if assigner.idle and before == (cluster.wanted, set(cluster.pods)):
                return
        raise AssertionError("no end of changes")

    def state_is_that_of_a_fresh_list(self):
        fresh = Assigner(self.cluster, self.policy())
        held, known = fresh.state, self.assigners[0].state
        assert known.totals == held.totals
        assert {uid: (seat.pool, seat.rank) for uid, seat in known.seats.items()} == {
            uid: (seat.pool, seat.rank) for uid, seat in held.seats.items()
        }
        fresh.look()
        assert fresh.write(1000) == 0, "a restart has nothing to write"
        fresh.stop()

    @precondition(lambda self: hasattr(self, "cluster"))
    @rule(first=st.integers(0, 12), then=st.integers(0, 12))
    def scaling_in_quiet_is_exact(self, first, then):
        """With all pods ready, going down leaves the spread that the policy wants, and takes no write."""
        if self.room < 100:
            return  # after a cool-down a pool takes one pod, as a probe, and the others go on
        for replicas in (0, first):
            self.cluster.clock += 1000  # no cool-down is left
            self.cluster.replicas = replicas
            self.settle()
        self.cluster.replicas = min(first, then)
        self.cluster.sync_deployment()
        self.cluster.sync_replica_sets()
        (assigner,) = self.assigners
        assigner.hear(1000)
        assigner.look()
        assert assigner.write(1000) == 0
        counts = collections.Counter(map(pool, self.cluster.active()))
        assert (counts["base"], counts["elastic"]) == assigner.state.order.targets(min(first, then))


class PercentLife(Life):
    def limit(self):
        return f"{self.base * 10}%"

    def bound(self, owner):
        if owner == "all revisions":
            return None
        most = max(12, *(len(self.cluster.of(template)) for template in self.cluster.wanted))
        return -(-self.base * 10 * (most + 2) // 100) * self.leaders


class OneBoundForAllRevisions(Life):
    spec: ClassVar[dict[str, Any]] = {"counting": {"scope": "Total"}}

    def bound(self, owner):
        return self.base if owner == "all revisions" else None


class SurgeLife(Life):
    spec: ClassVar[dict[str, Any]] = {"rollout": {"maxSurge": 1}}

    def bound(self, owner):
        return self.base + 1 if owner == "all revisions" else self.base


class SmallBase(Life):
    """Its nodes have less room than the policy wants."""

    room = 2


class NoStock(SmallBase):
    """Neither pool runs all that it is given: nobody waits at the gate for that."""

    @precondition(lambda self: hasattr(self, "cluster") and not self.suspended)
    @rule(
        there=st.booleans(),
        turns=st.lists(st.tuples(st.sampled_from([1, 31, 121]), st.integers(0, 12)), max_size=8),
    )
    def nobody_waits(self, there, turns):
        (assigner,) = self.assigners
        self.cluster.stock = there
        for seconds, replicas in turns:
            self.cluster.clock += seconds
            self.cluster.replicas = replicas
            self.cluster.sync_deployment()
            self.cluster.sync_replica_sets()
            assigner.hear(1000)
            assigner.look()
            assigner.write(1000)
            assert not [pod for pod in self.cluster.active() if pod["spec"].get("schedulingGates")]
            self.cluster.schedule()


class NoStockForAPercentage(NoStock, PercentLife):
    """What the elastic pool cannot run is no reason for more on the base than its share."""

    room = 50


class TwoLeaders(Life):
    """Two assigners that both believe to lead: each keeps to the bound by what it knows."""

    leaders = 2


class RebalancedLife(Life):
    spec: ClassVar[dict[str, Any]] = {"rebalance": EVICT}

    @rule()
    def quiet_is_exact(self):
        """Whatever happened: pods are moved until the spread is what the policy wants."""
        self.settle()
        counts = collections.Counter(map(pool, self.cluster.active()))
        wanted = self.assigners[0].state.order.targets(self.cluster.replicas)
        assert (counts["base"], counts["elastic"]) == wanted


shape = settings(
    max_examples=40,
    stateful_step_count=25,
    phases=set(Phase) - {Phase.explain},  # which traces every line
)
for life in (
    Life,
    PercentLife,
    OneBoundForAllRevisions,
    SurgeLife,
    SmallBase,
    NoStock,
    NoStockForAPercentage,
    TwoLeaders,
    RebalancedLife,
):
    case = life.TestCase
    case.settings = shape
    globals()[f"Test{life.__name__}"] = case
del life, case
