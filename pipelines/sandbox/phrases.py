"""Words of the sandbox's texts. Places are invented; species and their habits are common knowledge."""
# ruff: noqa: E501

from __future__ import annotations

NAMES: tuple[tuple[str, ...], ...] = (
    (
        "Aren",
        "Bick",
        "Cald",
        "Dorn",
        "Els",
        "Feld",
        "Grau",
        "Hase",
        "Ill",
        "Kirsch",
        "Lind",
        "Mar",
        "Nied",
        "Ober",
        "Rod",
        "Stein",
        "Wal",
        "Zell",
    ),
    ("bach", "berg", "dorf", "feld", "hausen", "heim", "hof", "ingen", "kirchen", "rath", "scheid", "tal", "weiler"),
)

OPENING: tuple[str, ...] = (
    "{name} is a hamlet in the {side} of the district, known for the old lane that crosses it.",
    "{name} lies in the {side} of the border country, on the road between two market towns.",
    "The place called {name} belongs to a parish in the {side} of the region and has been lived in for centuries.",
    "{name} is a named locality of the {side}ern uplands, reached by a single paved road.",
    "On old maps {name} appears as a farmstead; today the name stands for the whole neighbourhood in the {side}.",
)

RELIEF: dict[str, tuple[str, ...]] = {
    "high": (
        "At about {height:.0f} metres it stands on one of the ridges, open to the wind, and snow stays longer than below.",
        "The ground rises to some {height:.0f} metres here and falls away steeply on two sides.",
    ),
    "middle": (
        "It sits on a gentle slope about {height:.0f} metres above the sea, between the valley floor and the heights.",
        "The surroundings are rolling, with {height:.0f} metres as a usual height and shallow dry valleys between swells.",
    ),
    "low": (
        "The valley floor lies at about {height:.0f} metres and is nearly flat, with mist on many autumn mornings.",
        "At {height:.0f} metres this is among the lowest ground of the area, and the soils are deep and moist.",
    ),
}

SCENES: dict[str, tuple[str, ...]] = {
    "water": (
        "A stretch of open water fills the middle of the site, with anglers on its banks and grebes far out.",
        "The still surface of the lake is the first thing a visitor notices, and boats are moored along one shore.",
        "A slow river passes, wide enough to need a bridge, and floods the lowest path in wet winters.",
    ),
    "built_up": (
        "Terraced houses, a school and a row of workshops stand close together around the square.",
        "Most of the surface is roofed or paved: streets, yards, a car park and a small industrial estate.",
        "The settlement grew along its main street, and new homes fill what used to be gardens.",
    ),
    "bare": (
        "A quarry has laid open pale rock, and little grows on the gravel of its floor.",
        "The ground is stony and mostly without plants, scraped clear and rutted by machines.",
        "Heaps of rubble and open sand mark the place, and the wind raises dust in dry weeks.",
    ),
    "broadleaf_forest": (
        "Beech and oak form a closed wood that is bright green in May and copper in October.",
        "Old deciduous trees shade the paths, and the ground is covered by fallen leaves in winter.",
        "The wood is of hornbeam, ash and oak, coppiced in the past and now left to grow tall.",
    ),
    "conifer_forest": (
        "Dark stands of spruce and pine stay green all year and keep the forest floor in shade.",
        "Rows of planted spruce cover the hill, with the smell of resin and a carpet of needles.",
        "Tall firs and pines, thinned every few years, supply a sawmill further down.",
    ),
    "grassland": (
        "Cattle graze permanent meadows, some of which are cut for hay in June and again in August.",
        "The land is pasture, divided by wire fences, and stays green except in the driest summers.",
        "Wide meadows with clover and buttercups are kept by grazing and mowing.",
    ),
    "shrub": (
        "Heather, broom and blackthorn cover the common, which sheep once kept open.",
        "Scrub of juniper and gorse grows where fields were given up, too thorny to walk through.",
        "Low bushes stand in patches, yellow with broom in early summer.",
    ),
    "wetland": (
        "Reed and sedge fill the marsh, where the water stands at the surface until June.",
        "The fen is crossed by ditches and boardwalks, its reeds pale in winter and green late in spring.",
        "Peaty, soaked ground with rushes and willow makes a haven for warblers.",
    ),
    "orchard": (
        "Apple and cherry trees stand in straight rows, white with blossom in April.",
        "Fruit growing is the main business: lines of pear and plum trees with mown grass between them.",
        "Small orchards supply a press in the village, and ladders lean in the rows every September.",
    ),
    "winter_wheat": (
        "The fields carry winter wheat, sown in October and harvested in late July.",
        "Bread wheat ripens to gold around the village by midsummer.",
    ),
    "winter_barley": (
        "Winter barley is the first crop to turn yellow here, cut at the start of July.",
        "Bearded barley waves in the fields and is threshed weeks before the wheat.",
    ),
    "maize": (
        "Tall maize hides the lanes from August until the forage harvesters come in early October.",
        "Fields of corn, bare until May, feed the biogas plant and the dairy herds.",
    ),
    "sunflower": (
        "Sunflowers bloom across the fields in late July and hang their dark heads in autumn.",
        "Oil seed from late-sown sunflowers has become a new source of income.",
    ),
    "rapeseed": (
        "In early May oilseed rape paints the fields a glaring yellow, and beekeepers bring their hives.",
        "Rape is sown in August, flowers in spring and is pressed for oil.",
    ),
    "sugar_beet": (
        "Sugar beet stays green until November, when trucks carry the roots to the factory.",
        "Broad-leaved beets cover the loam from June, lifted late in wet autumns.",
    ),
    "alfalfa": (
        "Alfalfa is cut four or five times a year for fodder and grows back within weeks.",
        "Lucerne leys, purple when they are allowed to flower, rest the soil for a few years.",
    ),
}

TASKS: dict[str, tuple[str, ...]] = {
    "crop": (
        "Farmers rotate their crops from year to year, and contractors move from holding to holding at harvest.",
        "The soil is ploughed or harrowed after harvest, and machinery is shared between neighbours.",
    ),
    "forest": (
        "Foresters mark trees for felling in winter, and stacks of logs wait along the tracks.",
        "The wood is managed by the commune, which lets hunting rights and sells timber by auction.",
    ),
    "pasture": (
        "Milk is collected every other day, and hay is stored in round bales under the eaves.",
        "Herds move out in April and are brought into the barns with the first frost.",
    ),
    "orchard": (
        "Frost in blossom time is feared most, and small fires are lit between the trees on clear nights.",
        "Pickers come for the season, and fruit is sold from stalls at the roadside.",
    ),
    "town": (
        "Commuters leave by bus and train, and a weekly market is held between the town hall and the church.",
        "Shops, a clinic and a fire station serve the villages around.",
    ),
    "wet": (
        "The water level is watched by the river board, and bird counts take place every month.",
        "Visitors come for the birds, and parts of the shore are closed during the breeding season.",
    ),
    "open": (
        "There is little farming; walkers, a few goats and the occasional botanist are what one meets.",
        "The land is of little worth to agriculture and is used for exercises, motor sport or not at all.",
    ),
}

HISTORY: tuple[str, ...] = (
    "A chapel of the seventeenth century was rebuilt after a fire and still holds its first bell.",
    "The name is first written in a charter of a monastery, which held the tithe until the revolution.",
    "During the nineteenth century many families left for the cities, and the number of hearths fell by half.",
    "A narrow-gauge railway served the place until the nineteen-sixties; its embankment is now a path for bicycles.",
    "In the wars the front passed twice, and a memorial by the crossroads lists the dead of both.",
    "Excavations found Roman tiles and a stretch of paved road below the present surface.",
)

CLOSING: tuple[str, ...] = (
    "A local society keeps a small museum of tools and photographs, open on Sundays from spring to autumn.",
    "Every September a fair is held with a procession, a shooting contest and music until late.",
    "The nearest station is half an hour away on foot, and a bus runs on school days only.",
    "A footpath of nine kilometres, marked with a blue square, leads around the locality and back.",
    "The register of {year} describes the state of the land in some detail and notes who works it.",
    "Several painters stayed here one summer, and two of their views hang in the provincial gallery.",
)

SPECIES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "water": (
        ("Fulica atra", "Eurasian coot", "a bird of open lakes and slow rivers"),
        ("Esox lucius", "northern pike", "a fish of weedy lakes and quiet river bends"),
        ("Podiceps cristatus", "great crested grebe", "a diving bird of larger open waters"),
    ),
    "built_up": (
        ("Passer domesticus", "house sparrow", "nesting under roofs close to people"),
        ("Apus apus", "common swift", "breeding in holes of buildings in towns"),
        ("Cymbalaria muralis", "ivy-leaved toadflax", "growing in the joints of old walls"),
    ),
    "bare": (
        ("Charadrius dubius", "little ringed plover", "breeding on open gravel and in quarries"),
        ("Oedipoda caerulescens", "blue-winged grasshopper", "living on bare stony ground in full sun"),
        ("Tussilago farfara", "coltsfoot", "a pioneer of raw, disturbed soil"),
    ),
    "broadleaf_forest": (
        ("Anemone nemorosa", "wood anemone", "flowering under beech and oak before the leaves open"),
        ("Dendrocoptes medius", "middle spotted woodpecker", "tied to old oaks"),
        ("Lucanus cervus", "stag beetle", "developing in dead wood of deciduous trees"),
    ),
    "conifer_forest": (
        ("Loxia curvirostra", "red crossbill", "feeding on the cones of spruce and pine"),
        ("Vaccinium myrtillus", "bilberry", "a dwarf shrub of acid soils under conifers"),
        ("Regulus regulus", "goldcrest", "a tiny bird of spruce and fir crowns"),
    ),
    "grassland": (
        ("Alauda arvensis", "Eurasian skylark", "singing over meadows and pastures"),
        ("Ranunculus acris", "meadow buttercup", "a plant of mown and grazed grassland"),
        ("Maniola jurtina", "meadow brown", "a butterfly of unimproved meadows"),
    ),
    "shrub": (
        ("Calluna vulgaris", "common heather", "the dominant dwarf shrub of heath"),
        ("Lanius collurio", "red-backed shrike", "nesting in thorny scrub"),
        ("Cytisus scoparius", "common broom", "a yellow-flowered shrub of given-up fields"),
    ),
    "wetland": (
        ("Phragmites australis", "common reed", "forming dense stands in shallow water"),
        ("Acrocephalus scirpaceus", "reed warbler", "weaving its nest between reed stems"),
        ("Hyla arborea", "European tree frog", "calling from marshes and ponds in May"),
    ),
    "orchard": (
        ("Athene noctua", "little owl", "breeding in hollow fruit trees"),
        ("Phoenicurus phoenicurus", "common redstart", "a bird of old orchards"),
        ("Cydia pomonella", "codling moth", "whose larvae bore into apples"),
    ),
    "winter_wheat": (
        ("Cyanus segetum", "cornflower", "a weed of cereal fields"),
        ("Coturnix coturnix", "common quail", "calling from fields of wheat"),
    ),
    "winter_barley": (
        ("Circus pygargus", "Montagu's harrier", "nesting in winter barley"),
        ("Papaver rhoeas", "common poppy", "a weed of winter cereals"),
    ),
    "maize": (
        ("Ostrinia nubilalis", "European corn borer", "a moth whose larvae feed in maize stems"),
        ("Echinochloa crus-galli", "cockspur grass", "a late weed of maize fields"),
    ),
    "sunflower": (
        ("Carduelis carduelis", "European goldfinch", "gathering in flocks on ripe sunflowers"),
        ("Orobanche cumana", "sunflower broomrape", "a parasite on the roots of sunflowers"),
    ),
    "rapeseed": (
        ("Brassicogethes aeneus", "pollen beetle", "feeding in the flowers of oilseed rape"),
        ("Motacilla flava", "western yellow wagtail", "breeding in rape and other tall crops"),
    ),
    "sugar_beet": (
        ("Vanellus vanellus", "northern lapwing", "breeding on bare soil of late-sown beet"),
        ("Chenopodium album", "fat hen", "a common weed of beet and potatoes"),
    ),
    "alfalfa": (
        ("Colias hyale", "pale clouded yellow", "a butterfly whose larvae feed on lucerne"),
        ("Megachile rotundata", "alfalfa leafcutter bee", "a pollinator of lucerne"),
    ),
}
