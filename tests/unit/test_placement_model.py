"""Random lives of a Deployment under a policy: what must hold at every step, and what when all is quiet."""

import collections

import placing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from placement_model import Cluster, cost, patches, pool

from overspill.placement.cooldown import Cooldowns
from overspill.placement.decide import Surroundings, cost_of, decide
from overspill.placement.nodes import Node, NodeMeta
from overspill.placement.state import PolicyState

NODES = {
    "node-of-base": Node(NodeMeta("node-of-base")),
    "node-of-elastic": Node(NodeMeta("node-of-elastic", labels=placing.VIRTUAL)),
}


class Assigner:
    """What `placement/assigner.py` does, without a network: events in, patches out, in any order."""

    def __init__(self, cluster, policy):
        self.cluster = cluster
        self.state = PolicyState(policy)
        self.cooldowns = Cooldowns()
        self.around = Surroundings(node=NODES.get, is_old=cluster.is_old)
        self.queue = {}
        for pod in cluster.list():
            self.state.apply(pod)
        cluster.events.clear()

    def hear(self, count):
        for kind, content in self.cluster.events[:count]:
            pod = placing.decoded(content)
            if kind == "DELETED":
                self.state.remove(pod.metadata.uid)
            else:
                self.state.apply(pod)
                self.queue[pod.metadata.uid] = None
        del self.cluster.events[:count]

    def decide(self):
        made = decide(self.state, self.cooldowns, self.around)
        self.queue |= dict.fromkeys([pod.metadata.uid for pod, _ in made.placed] + made.touched)

    def refresh(self):
        """What happens when revisions change places."""
        self.queue |= dict.fromkeys(self.state.seats)

    def write(self, count):
        """Send some patches; the number of those that were taken."""
        taken = 0
        for uid in list(self.queue)[:count]:
            del self.queue[uid]
            pod, seat = self.state.pods.get(uid), self.state.seats.get(uid)
            if pod is None or seat is None:
                continue
            spec = self.state.policy.spec
            into = spec.pools[seat.pool] if seat.pool >= 0 else None
            marks = patches.marks("web", into, rank=seat.rank, cost=cost_of(self.state, seat, self.around))
            seat.sent = True
            if pod.gate is not None:
                taken += self.cluster.patch(uid, patches.place(pod, into, *marks))
            else:
                taken += self.cluster.patch(uid, patches.mark(pod, *marks))
        return taken

    def edit(self, policy):
        """Take another spec, keeping what is on its way."""
        state = PolicyState(policy)
        for pod in self.state.pods.values():
            state.apply(pod)
        state.carry_over(self.state)
        self.state = state


class Life(RuleBasedStateMachine):
    base = 3
    limit = "fixed"

    def policy(self):
        most = self.base if self.limit == "fixed" else f"{self.base * 10}%"
        return placing.policy(placing.pool("base", most), placing.pool("elastic"))

    @initialize(replicas=st.integers(0, 12))
    def start(self, replicas):
        self.cluster = Cluster(replicas)
        self.assigner = Assigner(self.cluster, self.policy())
        self.on_base = collections.Counter()

    @rule(replicas=st.integers(0, 12))
    def scale(self, replicas):
        self.cluster.replicas = replicas

    @rule(template=st.integers(1, 4))
    def roll_out(self, template):
        if template != self.cluster.template:
            self.cluster.roll_out(template)
            self.assigner.refresh()

    @rule()
    def pause_or_resume(self):
        self.cluster.paused = not self.cluster.paused

    @rule()
    def deployment_steps(self):
        self.cluster.sync_deployment()

    @rule()
    def replica_sets_step(self):
        self.cluster.sync_replica_sets()

    @rule(replicas=st.integers(4, 12), heard=st.integers(1, 12), sent=st.integers(0, 4))
    def burst(self, replicas, heard, sent):
        """Much at once, of which the assigner gets to a part."""
        self.cluster.replicas = replicas
        self.cluster.sync_deployment()
        self.cluster.sync_replica_sets()
        self.assigner.hear(heard)
        self.assigner.decide()
        self.assigner.write(sent)

    @rule()
    def scheduler_steps(self):
        self.cluster.run_scheduled()

    @rule(which=st.integers(0, 30))
    def kill_a_pod(self, which):
        if self.cluster.pods:
            self.cluster.delete(sorted(self.cluster.pods)[which % len(self.cluster.pods)])

    @rule()
    def lose_the_base(self):
        """All base pods go at once, as with their node."""
        for name in [name for name, pod in self.cluster.pods.items() if pool(pod) == "base"]:
            self.cluster.delete(name)

    @rule(count=st.integers(1, 30))
    def hear(self, count):
        self.assigner.hear(count)

    @rule()
    def decide(self):
        self.assigner.decide()

    @rule(count=st.integers(1, 30))
    def write(self, count):
        self.assigner.write(count)

    @rule()
    def restart(self):
        self.assigner = Assigner(self.cluster, self.policy())

    @rule(base=st.integers(0, 6))
    def edit(self, base):
        self.base = base
        self.assigner.edit(self.policy())

    @invariant()
    def base_is_never_above_its_bound(self):
        """More pods than the bound only where it has come down, and then never a further one."""
        if not hasattr(self, "cluster"):
            return
        now = collections.Counter(
            pod["metadata"]["ownerReferences"][0]["name"]
            for pod in self.cluster.pods.values()
            if pool(pod) == "base"
        )
        for owner, count in now.items():
            bound = self.bound(owner)
            assert count <= max(bound, self.on_base[owner]), f"{count} base pods of {owner}, {bound} allowed"
        self.on_base = now

    def bound(self, owner):
        if self.limit == "fixed":
            return self.base
        most = max(12, *(len(self.cluster.of(template)) for template in self.cluster.wanted))
        return -(-self.base * 10 * (most + 2) // 100)

    @rule()
    def quiet(self):
        """Everybody gets to do all that is left to do."""
        self.settle()
        pods = list(self.cluster.pods.values())
        assert not [pod for pod in pods if pod["spec"].get("schedulingGates")]
        assert all(pool(pod) for pod in pods)
        by_owner = collections.defaultdict(list)
        for pod in pods:
            by_owner[pod["metadata"]["ownerReferences"][0]["name"]].append(pod)
        for owner, members in by_owner.items():
            assert len({cost(pod) for pod in members}) == len(members), owner
        self.state_is_that_of_a_fresh_list()

    def settle(self):
        for _ in range(60):
            before = self.cluster.events[:], dict(self.cluster.wanted), set(self.cluster.pods)
            self.cluster.paused = False
            self.cluster.sync_deployment()
            self.cluster.sync_replica_sets()
            self.assigner.hear(1000)
            self.assigner.decide()
            self.assigner.write(1000)
            self.base_is_never_above_its_bound()
            self.cluster.run_scheduled()
            if not self.cluster.events and before == ([], self.cluster.wanted, set(self.cluster.pods)):
                return
        raise AssertionError("no end of changes")

    def state_is_that_of_a_fresh_list(self):
        fresh = Assigner(self.cluster, self.policy())
        held, known = fresh.state, self.assigner.state
        assert known.totals == held.totals
        assert {uid: (seat.pool, seat.rank) for uid, seat in known.seats.items()} == {
            uid: (seat.pool, seat.rank) for uid, seat in held.seats.items()
        }
        fresh.decide()
        assert fresh.write(1000) == 0, "a restart has nothing to write"

    @precondition(lambda self: hasattr(self, "cluster") and self.cluster.template)
    @rule(first=st.integers(0, 12), then=st.integers(0, 12))
    def scaling_in_quiet_is_exact(self, first, then):
        """With all pods ready, going down leaves the spread that the policy wants, and takes no write."""
        self.settle()
        self.cluster.replicas = 0
        self.settle()
        self.cluster.replicas = first
        self.settle()
        self.cluster.replicas = min(first, then)
        self.cluster.sync_deployment()
        self.cluster.sync_replica_sets()
        self.assigner.hear(1000)
        self.assigner.decide()
        assert self.assigner.write(1000) == 0
        counts = collections.Counter(pool(pod) for pod in self.cluster.pods.values())
        wanted = self.assigner.state.order.targets(min(first, then))
        assert (counts["base"], counts["elastic"]) == wanted


class PercentLife(Life):
    limit = "percent"


shape = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase
TestLife.settings = shape
TestPercentLife = PercentLife.TestCase
TestPercentLife.settings = shape
