"""Short samples of languages, written for this file: everyday sentences with the commonest words of each."""

SAMPLES = {
    "en": """The weather has been good this week, and the children are playing in the garden with their friends. She said that she would have
        to go to the shop before it closes, because there is no bread left in the house. We were thinking about what you told us when they came
        back from the city. If I had known this, I would not have asked which of these books is yours. One should never forget that most people
        want to live and work in peace. How long will it take until the train arrives? He does not know where his mother put the keys, but it
        could be that they are under the table. This method was first described in a paper and is used for the study of water and air.""",
    "de": """Das Wetter war diese Woche gut, und die Kinder spielen im Garten mit ihren Freunden. Sie sagte, dass sie noch in den Laden gehen
        müsse, bevor er schließt, weil es kein Brot mehr im Haus gibt. Wir haben darüber nachgedacht, was du uns erzählt hast, als sie aus der
        Stadt zurückkamen. Wenn ich das gewusst hätte, hätte ich nicht gefragt, welches von diesen Büchern dir gehört. Man sollte nie vergessen,
        dass die meisten Menschen in Frieden leben und arbeiten wollen. Wie lange dauert es, bis der Zug ankommt? Er weiß nicht, wo seine
        Mutter die Schlüssel hingelegt hat, aber es könnte sein, dass sie unter dem Tisch liegen. Dieses Verfahren wurde zuerst beschrieben.""",
    "fr": """Le temps a été beau cette semaine, et les enfants jouent dans le jardin avec leurs amis. Elle a dit qu'elle devait aller au magasin
        avant qu'il ne ferme, parce qu'il n'y a plus de pain à la maison. Nous avons pensé à ce que vous nous avez raconté quand ils sont revenus
        de la ville. Si j'avais su cela, je n'aurais pas demandé lequel de ces livres est à toi. Il ne faut jamais oublier que la plupart des gens
        veulent vivre et travailler en paix. Combien de temps faut-il jusqu'à ce que le train arrive ? Il ne sait pas où sa mère a mis les clés,
        mais il se pourrait qu'elles soient sous la table. Cette méthode a été décrite pour la première fois dans une étude sur l'eau.""",
    "es": """El tiempo ha sido bueno esta semana, y los niños juegan en el jardín con sus amigos. Ella dijo que tenía que ir a la tienda antes de
        que cierre, porque ya no hay pan en la casa. Estábamos pensando en lo que nos contaste cuando ellos volvieron de la ciudad. Si yo lo
        hubiera sabido, no habría preguntado cuál de estos libros es el tuyo. Nunca se debe olvidar que la mayoría de las personas quiere vivir y
        trabajar en paz. ¿Cuánto tiempo falta hasta que llegue el tren? Él no sabe dónde puso su madre las llaves, pero podría ser que estén
        debajo de la mesa. Este método fue descrito por primera vez en un estudio sobre el agua y el aire.""",
    "it": """Il tempo è stato bello questa settimana, e i bambini giocano nel giardino con i loro amici. Lei ha detto che doveva andare al negozio
        prima che chiuda, perché non c'è più pane in casa. Stavamo pensando a quello che ci hai raccontato quando sono tornati dalla città. Se lo
        avessi saputo, non avrei chiesto quale di questi libri è il tuo. Non bisogna mai dimenticare che la maggior parte delle persone vuole
        vivere e lavorare in pace. Quanto tempo ci vuole finché arriva il treno? Lui non sa dove sua madre ha messo le chiavi, ma potrebbe essere
        che siano sotto il tavolo. Questo metodo è stato descritto per la prima volta in uno studio sull'acqua e sull'aria.""",
    "pt": """O tempo esteve bom esta semana, e as crianças brincam no jardim com os seus amigos. Ela disse que tinha de ir à loja antes que feche,
        porque já não há pão em casa. Estávamos a pensar no que você nos contou quando eles voltaram da cidade. Se eu soubesse disso, não teria
        perguntado qual destes livros é o seu. Nunca se deve esquecer que a maioria das pessoas quer viver e trabalhar em paz. Quanto tempo
        falta até o comboio chegar? Ele não sabe onde a mãe pôs as chaves, mas pode ser que estejam debaixo da mesa. Este método foi descrito
        pela primeira vez num estudo sobre a água e o ar, e também não são muitos os que o usam.""",
    "nl": """Het weer was deze week goed, en de kinderen spelen in de tuin met hun vrienden. Zij zei dat zij nog naar de winkel moest gaan voordat
        die sluit, omdat er geen brood meer in huis is. Wij dachten na over wat je ons verteld hebt toen zij terugkwamen uit de stad. Als ik dat
        geweten had, zou ik niet gevraagd hebben welk van deze boeken van jou is. Men mag nooit vergeten dat de meeste mensen in vrede willen
        leven en werken. Hoe lang duurt het tot de trein aankomt? Hij weet niet waar zijn moeder de sleutels heeft gelegd, maar het zou kunnen
        dat ze onder de tafel liggen. Deze methode werd voor het eerst beschreven in een onderzoek naar water en lucht.""",
    "sv": """Vädret har varit bra den här veckan, och barnen leker i trädgården med sina vänner. Hon sade att hon måste gå till affären innan den
        stänger, eftersom det inte finns något bröd kvar i huset. Vi tänkte på vad du berättade för oss när de kom tillbaka från staden. Om jag
        hade vetat detta skulle jag inte ha frågat vilken av de här böckerna som är din. Man bör aldrig glömma att de flesta människor vill leva
        och arbeta i fred. Hur lång tid tar det tills tåget kommer? Han vet inte var hans mor lade nycklarna, men det kan vara så att de ligger
        under bordet. Denna metod beskrevs först i en studie av vatten och luft.""",
    "pl": """Pogoda była w tym tygodniu dobra, a dzieci bawią się w ogrodzie ze swoimi przyjaciółmi. Powiedziała, że musi iść do sklepu, zanim go
        zamkną, ponieważ w domu nie ma już chleba. Myśleliśmy o tym, co nam opowiedziałeś, kiedy oni wrócili z miasta. Gdybym o tym wiedział, nie
        pytałbym, która z tych książek jest twoja. Nigdy nie należy zapominać, że większość ludzi chce żyć i pracować w pokoju. Jak długo to
        potrwa, aż pociąg przyjedzie? On nie wie, gdzie jego matka położyła klucze, ale może być tak, że leżą pod stołem. Ta metoda została po raz
        pierwszy opisana w pracy o wodzie i powietrzu.""",
    "ru": """Погода на этой неделе была хорошая, и дети играют в саду со своими друзьями. Она сказала, что должна пойти в магазин, пока он не
        закрылся, потому что в доме больше нет хлеба. Мы думали о том, что вы нам рассказали, когда они вернулись из города. Если бы я знал это,
        я бы не спросил, какая из этих книг твоя. Никогда не следует забывать, что большинство людей хочет жить и работать в мире. Сколько
        времени пройдёт, пока поезд прибудет? Он не знает, куда его мать положила ключи, но может быть, они лежат под столом.""",
}
