# SPDX-License-Identifier: Apache-2.0
"""What a run keeps to be looked at, and the page that shows it."""
