"""Where proposals come from when they are not the networks' own: functions, filters, foreign models."""
