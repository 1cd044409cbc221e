"""From a detector to alarms: sources of sound, the life cycle of an alarm, memory, and sinks."""
