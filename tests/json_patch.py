"""What a JSON Patch makes of an object, as far as webhooks need it: RFC 6902, operation `add`."""

import copy


def applied(content, operations):
    """The object afterwards."""
    result = copy.deepcopy(content)
    for operation in operations:
        assert operation["op"] == "add"
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        place = result
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), copy.deepcopy(operation["value"]))
        else:
            place[last] = copy.deepcopy(operation["value"])
    return result
