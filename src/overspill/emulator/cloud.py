"""The commands of the API on container groups, and what the clock does to them.

In: typed requests, the time. Out: the books' next state, or `Refused`.
Invariant: one thread, no waiting: a method is a transaction, kept before anybody is told of it.
"""

import hashlib
import secrets
import string
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct, structs

from overspill.emulator import groups as life
from overspill.emulator.books import Books, Entry
from overspill.emulator.faults import Faults
from overspill.emulator.groups import Group, Retention
from overspill.emulator.happenings import Event
from overspill.emulator.images import ImageCache, best_match, created, normal_name
from overspill.emulator.network import Place, VSwitch
from overspill.emulator.placing import Choice, choose
from overspill.emulator.prices import price
from overspill.emulator.refusals import Refused
from overspill.emulator.requests import CreateContainerGroup
from overspill.emulator.store import Token

__all__ = ["Cloud", "Timings"]

ALPHABET = string.digits + string.ascii_lowercase
TOKEN_SECONDS = 24 * 3600.0


class Timings(Struct, frozen=True):
    """How long things take here, in seconds.

    Attributes:
        scheduling: from CreateContainerGroup to Pending.
        spot_notice: from the notice that a spot group is taken back to its end.
        image_cache: the making of an image cache.
    """

    scheduling: float = 0.5
    spot_notice: float = 180.0
    image_cache: float = 5.0
    retention: Retention = Retention()


class Cloud:
    """One region of one account."""

    def __init__(
        self,
        *,
        region: str,
        books: Books,
        faults: Faults,
        timings: Timings,
        max_cpu: float,
    ) -> None:
        self.region = region
        self.books = books
        self.faults = faults
        self.timings = timings
        self.max_cpu = max_cpu
        self.network = books.network
        self.stock = books.stock
        self.store = books.store
        self.clock = books.clock
        self.id = self.store.meta("id", f"emulator-{_random_id(12)}")
        self.images: dict[str, ImageCache] = {cache.id: cache for cache in self.store.images()}

    def create(self, request: CreateContainerGroup) -> str:
        """Take a group on; returns its id.

        Raises:
            Refused: no address, stock, quota, or something that it names does not exist.
        """
        digest = request_digest(request)
        if request.client_token and (known := self._answered(request.client_token, digest)):
            return known
        choice = choose(
            request, region=self.region, network=self.network, stock=self.stock, hindrances=self._hindrances
        )
        self._check_quota(choice.cpu)
        image_cache = self._image_cache(request)
        if request.dry_run:
            raise Refused("DryRunOperation", "Request validation has been passed with DryRun flag set.")
        place = self.network.place(
            choice.vswitches, choice.security_group, address=request.private_ip_address
        )
        entry = Entry(self._new_group(request, choice, place), request)
        if image_cache:
            text = f"Matched the image cache {image_cache.id}."
            told = Event("Normal", "SuccessfulHitImageCache", text, self.clock(), "EciService")
            entry.group = life.with_events(entry.group, [told])
        with self.store.batch():
            self.books.add(entry)
            if request.client_token:
                self._answer(request.client_token, digest, entry.group.id)
        self.books.fall_due(entry.group.id, at=self.clock() + self.timings.scheduling)
        return entry.group.id

    def _new_group(self, request: CreateContainerGroup, choice: Choice, place: Place) -> Group:
        now = self.clock()
        category = request.compute_category[0] if request.compute_category else ""
        each = price(
            cpu=choice.cpu,
            memory=choice.memory,
            category=category,
            spot_strategy=request.spot_strategy,
            storage=request.ephemeral_storage,
        )
        return Group(
            id=f"eci-{_random_id(20)}",
            seq=self.books.next_seq(),
            name=request.container_group_name,
            region=self.region,
            zone=place.vswitch.zone,
            vpc=self.network.vpc,
            vswitch=place.vswitch.id,
            security_group=place.security_group.id,
            address=place.address,
            cpu=choice.cpu,
            memory=choice.memory,
            price=each.trade,
            created_at=now,
            changed_at=now,
            compute_category=category,
            spot_strategy=request.spot_strategy,
            spot_price_limit=request.spot_price_limit,
            resource_group=request.resource_group_id,
            tags={tag.key: tag.value for tag in request.tag},
            grace_seconds=request.termination_grace_period_seconds,
        )

    def _answered(self, token: str, digest: str) -> str:
        kept = self.store.token(token)
        if kept is None:
            return ""
        if kept.digest != digest:
            raise Refused(
                "IdempotentParameterMismatch",
                "The request uses the same client token as a previous, but non-identical request.",
            )
        return kept.answer

    def _answer(self, token: str, digest: str, answer: str) -> None:
        self.store.put_token(token, Token(digest, answer), at=self.clock())

    def _hindrances(self, candidates: Sequence[VSwitch]) -> dict[str, str]:
        """The kinds of faults that keep this request out of vSwitches; asked once, for it counts."""
        found: dict[str, str] = {}
        for armed in self.faults.listed():
            fault = armed.fault
            if fault.kind == "no-stock":
                met = [each.id for each in candidates if fault.zone in {"", each.zone}]
            elif fault.kind == "no-addresses":
                met = [each.id for each in candidates if fault.vswitch in {"", each.id}]
            else:
                continue
            if met and armed.meets("CreateContainerGroup"):
                found = dict.fromkeys(met, fault.kind) | found
        return found

    def _check_quota(self, cpu: float) -> None:
        if self.books.used_cpu + cpu > self.max_cpu:
            raise Refused(
                "QuotaExceeded",
                f"vCPU quota exceeded. {self.books.used_cpu:g} of {self.max_cpu:g} are in use, {cpu:g} asked for.",
            )

    def _image_cache(self, request: CreateContainerGroup) -> ImageCache | None:
        if request.image_snapshot_id:
            return self._named_image_cache(request.image_snapshot_id)
        if not request.auto_match_image_cache:
            return None
        ready = [cache for cache in self.images.values() if self.image_status(cache) == "Ready"]
        return best_match(ready, [normal_name(container.image) for container in request.container])

    def _named_image_cache(self, name: str) -> ImageCache:
        found = next((c for c in self.images.values() if name in {c.id, c.snapshot}), None)
        if found is None:
            raise Refused("ImageSnapshot.NotFound", f"The specified image cache {name} does not exist.")
        if self.image_status(found) != "Ready":
            raise Refused("ImageSnapshot.IncorrectStatus", f"The image cache {name} is not ready.")
        return found

    def image_status(self, cache: ImageCache) -> str:
        """How far an image cache is."""
        return created(cache, now=self.clock(), seconds=self.timings.image_cache).status

    def delete(self, group_id: str) -> None:
        """End a group and let it be forgotten.

        Raises:
            Refused: there is no such group.
        """
        entry = self.books.find(group_id)
        if not entry.group.removing:
            self.books.change(entry, life.removed(entry.group, at=self.clock()))
            self.books.drop_if_done(entry)

    def restart(self, group_id: str) -> None:
        """Start its containers anew.

        Raises:
            Refused: there is no such group, or it is neither Pending nor Running.
        """
        entry = self._alive(group_id, "Pending", "Running")
        self.books.change(entry, life.attempted_again(entry.group, status="Restarting", at=self.clock()))

    def update(self, group_id: str, request: CreateContainerGroup, *, anew: bool) -> None:
        """Give a group another request, but no other tags; `anew` when its containers have to be made again for it.

        Raises:
            Refused: there is no such group, or it is not live.
        """
        entry = self._alive(group_id, "Pending", "Running")
        group = structs.replace(entry.group, changed_at=self.clock())
        if anew:
            group = life.attempted_again(group, status="Updating", at=self.clock())
        entry.request = request
        self.store.add_group(group, request)
        self.books.change(entry, group)

    def tag(self, group_id: str, tags: Mapping[str, str]) -> None:
        """Give a group these tags and no others.

        Raises:
            Refused: there is no such group.
        """
        entry = self.books.find(group_id)
        self.books.change(entry, structs.replace(entry.group, tags=dict(tags), changed_at=self.clock()))

    def _alive(self, group_id: str, *statuses: str) -> Entry:
        entry = self.books.find(group_id)
        if entry.group.status not in statuses:
            raise Refused(
                "IncorrectStatus",
                f"The current status {entry.group.status} of {group_id} does not support this operation.",
            )
        return entry

    def keep_image(self, cache: ImageCache) -> None:
        """Take an image cache on."""
        self.store.put_image(cache)
        self.images[cache.id] = cache

    def drop_image(self, cache_id: str) -> None:
        """Forget an image cache.

        Raises:
            Refused: there is none.
        """
        if self.images.pop(cache_id, None) is None:
            raise Refused("InvalidImageCacheId.NotFound", f"The image cache {cache_id} does not exist.")
        self.store.drop_image(cache_id)

    def interrupt(self, group_id: str) -> None:
        """Give a spot group notice.

        Raises:
            Refused: there is no such group, or it is not a spot group.
        """
        entry = self.books.find(group_id)
        if entry.group.spot_strategy in {"", "NoSpot"}:
            raise Refused("Spot.NotMatched", f"{group_id} is not a spot container group.")
        notice = self.timings.spot_notice
        self.books.change(entry, life.interrupted(entry.group, at=self.clock(), notice=notice))
        if entry.group.expires_at is not None:
            self.books.fall_due(group_id, at=entry.group.expires_at)

    def tick(self) -> None:
        """Do all that has fallen due."""
        with self.store.batch():
            for entry in self.books.due():
                self._fall_due(entry, self.clock())

    def _fall_due(self, entry: Entry, now: float) -> None:
        group = entry.group
        if group.status == "Scheduling":
            fault = self.faults.meet("CreateContainerGroup", "schedule-failure")
            if fault:
                text = "The resource is out of stock; the container group is not scheduled."
                ended = life.not_placed(group, reason=fault.code or "NoStock", message=text, at=now)
                self.books.change(entry, ended)
            else:
                seconds = entry.request.max_pending_minute * 60.0
                self.books.change(entry, life.placed(group, at=now, pending_seconds=seconds))
                self.books.fall_due(group.id, at=now + seconds)
        elif group.expires_at is not None and group.expires_at <= now:
            self.books.change(entry, life.expired(group, at=now))
        elif group.pending_until is not None and group.pending_until <= now:
            self.books.change(entry, life.pending_too_long(group, at=now))

    def forget(self) -> None:
        """Let go of ended groups and of answers that the service would have let go of."""
        now = self.clock()
        with self.store.batch():
            for group in life.forgotten((e.group for e in self.books.all()), self.timings.retention, now=now):
                entry = self.books.find(group.id)
                self.books.change(entry, life.removed(entry.group, at=now))
                self.books.drop_if_done(entry)
            self.store.drop_tokens(now - TOKEN_SECONDS)


def request_digest(request: CreateContainerGroup) -> str:
    """What two requests of one client token must have in common."""
    return hashlib.sha256(msgspec.json.encode(request)).hexdigest()


def _random_id(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
