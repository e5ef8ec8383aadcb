"""Imported first in the server of a pool, for what that does: it ends with the campaign, even while it imports."""

import os

from indexfuzz.campaign.server import CAMPAIGN
from indexfuzz.subjects.isolation.lifeline import die_with

die_with(int(os.environ[CAMPAIGN]))
