"""Times and sizes of a rental in templates."""

from django import template

from serials.rentals import wording

register = template.Library()

for words in (
    wording.time_left,
    wording.duration,
    wording.moment,
    wording.traffic,
    wording.traffic_given,
    wording.rate,
):
    register.filter(words)
register.simple_tag(wording.moves_on)
