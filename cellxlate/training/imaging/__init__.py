"""The imaging process: what makes a faint image out of a clear one."""
