"""Push: from a store to a remote."""

from kacas_remote.push.pushing import push, push_pending
from kacas_remote.push.summary import PushSummary

__all__ = ["PushSummary", "push", "push_pending"]
