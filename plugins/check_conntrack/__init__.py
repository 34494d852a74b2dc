"""Connection-tracking checks for Nagios and Icinga: the library behind the executables."""

__version__ = "0.1.0"
