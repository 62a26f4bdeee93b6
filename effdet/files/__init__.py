# SPDX-License-Identifier: Apache-2.0
"""Files: whole or not there at all when written, with limits when read."""

from effdet.files.writing import (
    WriteError,
    check_name,
    check_output,
    check_writable,
    keep_old,
    megabytes,
    new_folder,
    remove_leftovers,
    replace_text,
    short_path,
    write_atomically,
    write_error,
)

__all__ = [
    "WriteError",
    "check_name",
    "check_output",
    "check_writable",
    "keep_old",
    "megabytes",
    "new_folder",
    "remove_leftovers",
    "replace_text",
    "short_path",
    "write_atomically",
    "write_error",
]
