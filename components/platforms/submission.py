"""Creates one resource per name at services that accept a name twice."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    MissingInputError,
    PipelineError,
)
from imgpipe.components.platforms.polling import retry

Resource = TypeVar("Resource")

# Between the creation and the search for resources that other clients have created at the same time.
SETTLE_SECONDS = 1.0


def create_once(
    find: Callable[[], Sequence[Resource]],
    create: Callable[[], Resource],
    *,
    check: Callable[[Resource], None],
    end: Callable[[Resource], None],
    identify: Callable[[Resource], str],
    created: Callable[[Resource], Any],
    has_ended: Callable[[Resource], bool] = lambda _: False,
    concurrent: bool = True,
) -> tuple[Resource, bool]:
    """Creates a resource unless one of its name exists; of several created at the same time, one remains.

    A creation whose response was lost is not repeated before the name has been searched for again. After the
    creation, the name is searched for once more: the oldest resource that has not ended, or else the oldest,
    is kept, and the others are ended. All clients order them by the service's own data, so they keep the same
    one. A run that was started again in the browser after the first one had failed is kept.

    Args:
        find: Returns the resources with the name.
        create: Creates one.
        check: Raises InvalidArgumentError if a resource belongs to a different request.
        end: Ends a resource unless it has ended; MissingInputError = it does not exist anymore.
        identify: Returns the identifier of a resource.
        created: Returns the time of its creation.
        has_ended: Returns whether it has ended.
        concurrent: False = no other client creates resources of this name.

    Returns:
        The resource, and whether it existed before.

    Raises:
        InvalidArgumentError: if the name belongs to a different request.
        InterruptedRunError: if the service does not respond; a resource that was created is named.
        PipelineError: if the service rejects the request, or a superfluous resource cannot be ended.
    """
    own: Resource | None = None
    uncertain = False

    def find_or_create() -> list[Resource]:
        nonlocal own, uncertain
        found = list(find())
        if found or own is not None:
            return found
        try:
            own = create()
        except (InterruptedRunError, InvalidResponseError):
            uncertain = True
            if found := list(find()):
                return found
            raise
        if not concurrent and not uncertain:
            return [own]
        time.sleep(SETTLE_SECONDS)
        return list(find())

    def reporting(error: PipelineError) -> PipelineError:
        """Returns the error with what this call has created."""
        if own is not None:
            doubt = f"{identify(own)} was created, but it was not checked that it is the only one of its name"
            return _with_doubt(error, doubt)
        return _with_doubt(error, "it may have been created nevertheless") if uncertain else error

    try:
        found = retry(find_or_create)
    except PipelineError as error:
        raise reporting(error) from None
    existed = own is None and not uncertain
    own_id = "" if own is None else identify(own)
    if own is not None and own_id not in map(identify, found):
        found.append(own)
    found.sort(key=lambda resource: (has_ended(resource), created(resource), identify(resource)))
    kept = found[0]
    try:
        check(kept)
    except InvalidArgumentError:
        if own is not None:
            _end(own, end, own_id)
        raise
    except PipelineError as error:
        raise reporting(error) from None
    for resource in found[1:]:
        try:
            is_superfluous = identify(resource) == own_id or _belongs(resource, check)
        except PipelineError as error:
            raise reporting(error) from None
        if is_superfluous:
            _end(resource, end, identify(resource))
    return kept, existed or (own is not None and identify(kept) != own_id)


def _end(resource: Resource, end: Callable[[Resource], None], identifier: str) -> None:
    def request() -> None:
        # Another client may have ended it.
        try:
            end(resource)
        except MissingInputError:
            return

    try:
        retry(request)
    except PipelineError as error:
        raise _with_doubt(error, f"{identifier} was created as well and could not be ended") from None


def _belongs(resource: Resource, check: Callable[[Resource], None]) -> bool:
    try:
        check(resource)
    except InvalidArgumentError:
        return False
    return True


def _with_doubt(error: PipelineError, doubt: str) -> PipelineError:
    return type(error)(
        f"{error.problem}; {doubt}",
        where=error.where,
        remedy="run the same command again: it creates no second one, and ends others of the name",
    )
