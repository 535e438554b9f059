"""Makes a folder behave as a mounted bucket does; Python loads this file at its start from PYTHONPATH.

Below the folder MOUNTED_BUCKET, as in gcsfuse without options: folders with content are not renamed (EMFILE),
there are no hard links (ENOSYS), only the user who mounted the bucket may set times and permissions (EPERM),
and nothing is renamed from or to another file system (EXDEV). Refusals are appended to the file
MOUNTED_BUCKET_REFUSALS, one line each.
"""

import errno
import os

_ROOT = os.environ.get("MOUNTED_BUCKET", "")


def _is_below(path):
    if isinstance(path, int):
        path = os.readlink(f"/proc/self/fd/{path}")
    return os.path.abspath(os.fsdecode(path)).startswith(f"{_ROOT}{os.sep}")


def _refuse(name, code, *paths):
    with open(os.environ["MOUNTED_BUCKET_REFUSALS"], "a") as file:
        file.write(f"{name} {' '.join(map(os.fsdecode, paths))}\n")
    raise OSError(code, os.strerror(code), paths[0], None, *paths[1:])


def _renaming(rename):
    def checked(source, target, **options):
        if not _is_below(source) and not _is_below(target):
            return rename(source, target, **options)
        if _is_below(source) != _is_below(target):
            _refuse("rename", errno.EXDEV, source, target)
        if os.path.isdir(source) and os.listdir(source):
            _refuse("rename", errno.EMFILE, source, target)
        return rename(source, target, **options)

    return checked


def _linking(link):
    def checked(source, target, **options):
        if _is_below(source) or _is_below(target):
            _refuse("link", errno.ENOSYS, source, target)
        return link(source, target, **options)

    return checked


def _setting(name, function):
    def checked(path, *values, **options):
        # With permission to write a file, its time may be set to now.
        is_now = name == "utime" and values in ((), (None,)) and options in ({}, {"times": None})
        if _is_below(path) and not is_now:
            _refuse(name, errno.EPERM, str(path))
        return function(path, *values, **options)

    return checked


if _ROOT:
    os.rename, os.replace = _renaming(os.rename), _renaming(os.replace)
    os.link = _linking(os.link)
    for _name in ("chmod", "chown", "utime"):
        setattr(os, _name, _setting(_name, getattr(os, _name)))
