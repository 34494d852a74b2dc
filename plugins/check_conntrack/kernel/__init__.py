"""What Linux says about connection tracking, as plain values. No word of Nagios in here."""

from .source import KernelError as KernelError
