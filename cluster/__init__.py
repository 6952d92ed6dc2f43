"""Many machines: job submission, cluster definitions, schedules."""
