"""Ways to write one protobuf struct into another: JSON merge patch (RFC 7396), and by top-level member."""

from google.protobuf.struct_pb2 import Struct, Value


def merge_patch(target: Struct, patch: Struct) -> None:
    """Changes `target` in place: null removes a member, objects merge member by member, other values replace.

    Recurses once for each level of `patch`. The caller must have bounded its depth.
    """
    for name, value in patch.fields.items():
        kind = value.WhichOneof("kind")
        if kind == "null_value":
            if name in target.fields:
                del target.fields[name]
        elif kind == "struct_value":
            _object_member(target, name)
            merge_patch(target.fields[name].struct_value, value.struct_value)
        else:
            target.fields[name].CopyFrom(value)


def set_members(target: Struct, given: Struct) -> None:
    """Changes `target` in place: each member of `given` replaces the one of that name whole; a null is a value."""
    for name, value in given.fields.items():
        target.fields[name].CopyFrom(value)


def _object_member(target: Struct, name: str) -> None:
    """Makes sure that the member is an object: keeps one, replaces any other value by an empty one."""
    if name not in target.fields or target.fields[name].WhichOneof("kind") != "struct_value":
        target.fields[name].CopyFrom(Value(struct_value=Struct()))
