"""Read what Linux says about connection tracking, as plain values, without nagiosplugin."""

from .source import KernelError as KernelError
