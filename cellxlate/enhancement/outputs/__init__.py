"""What an enhancement writes, under which names, alone or as a plate."""
